import { catalogue } from '../../catalogue/catalogue.ts'
import { type Entries, outcomeOf, type ProbeSession, structure } from '../session.ts'

/** Names of KVM_DEV_TYPE_ numbers. */
function deviceTypes(): string[] {
  const names: string[] = []
  for (let value = 1; ; value++) {
    const name = catalogue
      .constantNames('KVM_DEV_TYPE_')
      .find((one) => Number(catalogue.constant(one)) === value)
    if (name === undefined || name === 'KVM_DEV_TYPE_MAX') return names
    names.push(name)
  }
}

/** Groups that are asked for on each kind of fd, with how many attributes of each. */
const groups = { sys: [0, 1, 2], vm: [0, 1], vcpu: [0, 1, 2] } as const
const attributes = 4

/** Devices that KVM_CREATE_DEVICE (api.rst 4.79) makes, and attributes that KVM_HAS_DEVICE_ATTR (4.81) knows. */
export async function devices(session: ProbeSession): Promise<Entries> {
  const entries: Entries = {}
  await session.withVcpu(async (vcpu, vm) => {
    const names = deviceTypes()
    const flags = catalogue.constant('KVM_CREATE_DEVICE_TEST')
    const made = await session.ask(
      names.map((name) => ({
        fd: vm,
        ioctl: 'KVM_CREATE_DEVICE',
        argument: structure('kvm_create_device', { type: catalogue.constant(name), flags }),
      })),
    )
    for (const [i, name] of names.entries()) entries[`device.${name}`] = outcomeOf(made[i]!)
    for (const [kind, fd] of [
      ['sys', session.system],
      ['vm', vm],
      ['vcpu', vcpu],
    ] as const) {
      const asked = groups[kind].flatMap((group) =>
        Array.from({ length: attributes }, (_, attr) => ({ group, attr })),
      )
      const results = await session.ask(
        asked.map((one) => ({
          fd,
          ioctl: 'KVM_HAS_DEVICE_ATTR',
          argument: structure('kvm_device_attr', one),
        })),
      )
      for (const [i, { group, attr }] of asked.entries()) {
        entries[`attr.${kind}.${group}.${attr}`] = outcomeOf(results[i]!)
      }
    }
  })
  return entries
}
