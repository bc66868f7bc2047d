/*
 * What a guest's life costs at least: a loop that makes the ioctls our VMM has to make, and nothing
 * else. bench/fork.ts builds and runs it.
 *
 *   floor boot|fork|reset IRQCHIP(0|1) RUNS    prints one line of microseconds for each run
 *
 * The guest prints 24 bytes, one exit each, and exits. boot: a new VM with registers set. fork: a
 * new VM from a memfd and a whole vCPU and VM state. reset: that state, and 64 pages written back,
 * in one VM.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { MEMORY = 2 << 20, ENTRY = 0x1000, PAGE = 4096, PAGES = 64, PAGES_START = 0x180000 };

/* mov cx, 24; mov dx, 0xe9; again: out dx, al; loop again; mov dx, 0xf4; out dx, eax */
static const uint8_t code[] = {0xb9, 24,   0,    0xba, 0xe9, 0,    0xee,
                               0xe2, 0xfd, 0xba, 0xf4, 0,    0x66, 0xef};

static struct {
  uint32_t count, padding;
  struct kvm_cpuid_entry2 entries[256];
} cpuid = {.count = 256};
static struct {
  uint32_t count;
  uint32_t indices[1024];
} msr_list = {.count = 1024};
static struct {
  uint32_t count, padding;
  struct kvm_msr_entry entries[1024];
} msrs;
static struct kvm_mp_state mp_state;
static struct kvm_regs regs;
static struct kvm_sregs sregs;
static uint8_t xsave[65536];
static struct kvm_xcrs xcrs;
static struct kvm_debugregs debugregs;
static struct kvm_lapic_state lapic;
static struct kvm_vcpu_events events;
static struct kvm_clock_data vm_clock;
static struct kvm_irqchip chips[3];
static int memfd;

struct machine {
  int irqchip, kvm, vm, vcpu;
  uint8_t* memory;
  struct kvm_run* run;
  size_t run_size;
};

static long need(long answer, const char* what) {
  if (answer >= 0) return answer;
  perror(what);
  exit(1);
}
#define IOCTL(fd, request, argument) need(ioctl(fd, request, argument), #request)

static void create(struct machine* m, int irqchip, int from_memfd) {
  m->irqchip = irqchip;
  m->kvm = need(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
  m->vm = IOCTL(m->kvm, KVM_CREATE_VM, 0);
  m->memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_NORESERVE | (from_memfd ? 0 : MAP_ANONYMOUS),
                   from_memfd ? memfd : -1, 0);
  if (m->memory == MAP_FAILED) need(-1, "mmap");
  if (!from_memfd) memcpy(m->memory + ENTRY, code, sizeof code);
  struct kvm_userspace_memory_region region = {.memory_size = MEMORY,
                                               .userspace_addr = (uintptr_t)m->memory};
  IOCTL(m->vm, KVM_SET_USER_MEMORY_REGION, &region);
  uint64_t identity_map = 0xfffbc000;
  IOCTL(m->vm, KVM_SET_IDENTITY_MAP_ADDR, &identity_map);
  IOCTL(m->vm, KVM_SET_TSS_ADDR, identity_map + PAGE);
  if (irqchip) IOCTL(m->vm, KVM_CREATE_IRQCHIP, 0);
  m->vcpu = IOCTL(m->vm, KVM_CREATE_VCPU, 0);
  m->run_size = IOCTL(m->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
  m->run = mmap(NULL, m->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, m->vcpu, 0);
  IOCTL(m->vcpu, KVM_SET_CPUID2, &cpuid);
}

static void enter(struct machine* m) {
  struct kvm_sregs special;
  IOCTL(m->vcpu, KVM_GET_SREGS, &special);
  special.cs.base = 0;
  special.cs.selector = 0;
  IOCTL(m->vcpu, KVM_SET_SREGS, &special);
  struct kvm_regs general = {.rip = ENTRY, .rflags = 2};
  IOCTL(m->vcpu, KVM_SET_REGS, &general);
}

static void save(struct machine* m) {
  IOCTL(m->kvm, KVM_GET_MSR_INDEX_LIST, &msr_list);
  for (uint32_t i = 0; i < msr_list.count; ++i) {
    msrs.count = 1;
    struct {
      uint32_t count, padding;
      struct kvm_msr_entry entry;
    } one = {.count = 1, .entry = {.index = msr_list.indices[i]}};
    if (ioctl(m->vcpu, KVM_GET_MSRS, &one) != 1 || ioctl(m->vcpu, KVM_SET_MSRS, &one) != 1)
      continue;
    msrs.entries[msrs.padding++] = one.entry;
  }
  msrs.count = msrs.padding;
  msrs.padding = 0;
  if (m->irqchip) IOCTL(m->vcpu, KVM_GET_MP_STATE, &mp_state);
  IOCTL(m->vcpu, KVM_GET_REGS, &regs);
  IOCTL(m->vcpu, KVM_GET_SREGS, &sregs);
  IOCTL(m->vcpu, KVM_GET_XSAVE, xsave);
  IOCTL(m->vcpu, KVM_GET_XCRS, &xcrs);
  IOCTL(m->vcpu, KVM_GET_DEBUGREGS, &debugregs);
  if (m->irqchip) IOCTL(m->vcpu, KVM_GET_LAPIC, &lapic);
  IOCTL(m->vcpu, KVM_GET_VCPU_EVENTS, &events);
  IOCTL(m->vm, KVM_GET_CLOCK, &vm_clock);
  vm_clock.flags = 0;
  for (uint32_t i = 0; m->irqchip && i < 3; ++i) {
    chips[i].chip_id = i;
    IOCTL(m->vm, KVM_GET_IRQCHIP, &chips[i]);
  }
  memfd = need(memfd_create("floor", MFD_CLOEXEC), "memfd_create");
  need(ftruncate(memfd, MEMORY), "ftruncate");
  need(pwrite(memfd, code, sizeof code, ENTRY), "pwrite");
}

static void restore(struct machine* m) {
  if (m->irqchip) IOCTL(m->vcpu, KVM_SET_MP_STATE, &mp_state);
  IOCTL(m->vcpu, KVM_SET_REGS, &regs);
  IOCTL(m->vcpu, KVM_SET_SREGS, &sregs);
  IOCTL(m->vcpu, KVM_SET_XSAVE, xsave);
  IOCTL(m->vcpu, KVM_SET_XCRS, &xcrs);
  IOCTL(m->vcpu, KVM_SET_DEBUGREGS, &debugregs);
  if (m->irqchip) IOCTL(m->vcpu, KVM_SET_LAPIC, &lapic);
  IOCTL(m->vcpu, KVM_SET_MSRS, &msrs);
  uint64_t offset = 0;
  struct kvm_device_attr attribute = {.addr = (uintptr_t)&offset};
  ioctl(m->vcpu, KVM_GET_DEVICE_ATTR, &attribute);
  ioctl(m->vcpu, KVM_SET_DEVICE_ATTR, &attribute);
  IOCTL(m->vcpu, KVM_SET_VCPU_EVENTS, &events);
  ioctl(m->vcpu, KVM_KVMCLOCK_CTRL, 0);
  IOCTL(m->vm, KVM_SET_CLOCK, &vm_clock);
  for (uint32_t i = 0; m->irqchip && i < 3; ++i) IOCTL(m->vm, KVM_SET_IRQCHIP, &chips[i]);
}

static void run(struct machine* m) {
  do {
    IOCTL(m->vcpu, KVM_RUN, 0);
    if (m->run->exit_reason != KVM_EXIT_IO) {
      fprintf(stderr, "exit %u\n", m->run->exit_reason);
      exit(1);
    }
  } while (m->run->io.port != 0xf4);
}

static void destroy(struct machine* m) {
  munmap(m->run, m->run_size);
  close(m->vcpu);
  close(m->vm);
  munmap(m->memory, MEMORY);
  close(m->kvm);
}

static void pages_back(struct machine* m) {
  static uint64_t map[MEMORY / PAGE];
  const int pagemap = need(open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC), "pagemap");
  need(pread(pagemap, map, sizeof map, (off_t)((uintptr_t)m->memory / PAGE * sizeof map[0])),
       "pread");
  close(pagemap);
  need(pread(memfd, m->memory + PAGES_START, PAGES * PAGE, PAGES_START), "pread");
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const int irqchip = atoi(argv[2]);
  struct machine m;
  m.kvm = need(open("/dev/kvm", O_RDWR | O_CLOEXEC), "/dev/kvm");
  IOCTL(m.kvm, KVM_GET_SUPPORTED_CPUID, &cpuid);
  close(m.kvm);
  create(&m, irqchip, 0);
  enter(&m);
  save(&m);
  destroy(&m);
  if (strcmp(argv[1], "reset") == 0) create(&m, irqchip, 1);
  for (int i = 0; i < atoi(argv[3]); ++i) {
    if (strcmp(argv[1], "reset") == 0) memset(m.memory + PAGES_START, i, PAGES * PAGE);
    const double start = now();
    if (strcmp(argv[1], "boot") == 0) {
      create(&m, irqchip, 0);
      enter(&m);
      run(&m);
      destroy(&m);
    } else if (strcmp(argv[1], "fork") == 0) {
      create(&m, irqchip, 1);
      restore(&m);
      run(&m);
      destroy(&m);
    } else {
      pages_back(&m);
      restore(&m);
    }
    printf("%.1f\n", now() - start);
  }
}
