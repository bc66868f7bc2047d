// The program that a child executes: one ioctl, on an fd that it was left with. Without a libc, so
// that it is a few kilobytes to be carried inside the addon.
#include <sys/mman.h>
#include <sys/syscall.h>

#include "native/kvm/raw/child/shared_page.h"

#define PAGE 4096ul

static long call(long number, long a, long b, long c, long d, long e, long f) {
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  register long r9 __asm__("r9") = f;
  long result;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return result;
}

static void leave(long status) {
  for (;;) call(SYS_exit_group, status, 0, 0, 0, 0, 0);
}

// Of the memory file, with a page behind it that nobody may touch.
static struct kvitest_child_page* mapped(long fd, unsigned long size) {
  const long reserved = call(SYS_mmap, 0, (long)(size + PAGE), PROT_NONE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved < 0) leave(2);
  const long at =
      call(SYS_mmap, reserved, (long)size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
  if (at < 0) leave(3);
  return (struct kvitest_child_page*)at;
}

// argv[1]: the number of the memory file's fd.
__attribute__((used)) static void run(const long* stack) {
  const char* const* argv = (const char* const*)(stack + 1);
  if (stack[0] != 2) leave(1);
  long fd = 0;
  for (const char* digit = argv[1]; *digit; ++digit) fd = fd * 10 + (*digit - '0');

  const unsigned long size = mapped(fd, PAGE)->size;
  struct kvitest_child_page* const page = mapped(fd, size);
  const unsigned long argument =
      page->bytes == 0 ? page->argument : (unsigned long)page + size - page->bytes;
  const long answer = call(SYS_ioctl, (long)page->fd, (long)page->request, (long)argument, 0, 0, 0);
  page->value = answer < 0 ? -1 : answer;
  page->code = answer < 0 ? -answer : 0;
  page->stage = KVITEST_CHILD_ANSWERED;
  leave(0);
}

__asm__(".globl _start\n_start:\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall run\n");
