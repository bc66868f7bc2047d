import type { BalloonDevice, DeviceSpec } from '../../native/contract.ts'
import { asText, BadValue, knownKeys } from './value.ts'

/** A virtio-balloon of a header; without a name it is called balloon0. Linux drives one well; two would fight for memory. */
export function parseBalloon(
  map: Record<string, unknown>,
  path: (string | number)[],
  before: readonly DeviceSpec[],
): BalloonDevice {
  knownKeys(map, ['name'], path)
  if (before.some((device) => device.type === 'virtio-balloon'))
    throw new BadValue(path, 'a second virtio-balloon')
  return { type: 'virtio-balloon', name: asText(map.name ?? 'balloon0', [...path, 'name']) }
}
