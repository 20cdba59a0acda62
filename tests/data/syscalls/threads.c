// Starts as many threads as its argument says, one after the other. Each makes two calls: getppid, exit. The first thread makes
// a clone and any number of futex for each, and an exit_group. Built without a C library: cc -static -nostdlib -O1.
#include <sys/syscall.h>

static long call(long number, long a, long b, long c, long d) {
  long result;
  register long r10 __asm__("r10") = d;
  __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
  return result;
}

static char stack[4096] __attribute__((aligned(16)));
// The kernel makes it 0, and wakes who waits, when the thread is gone.
static int lives;

// VM, FS, FILES, SIGHAND, THREAD, SYSVSEM, CHILD_CLEARTID
enum { FLAGS = 0x100 | 0x200 | 0x400 | 0x800 | 0x10000 | 0x40000 | 0x200000 };

static void start(void) {
  long result;
  register long r10 __asm__("r10") = (long)&lives;
  register long r8 __asm__("r8") = 0;
  __asm__ volatile("syscall\n\t"
                   "test %%rax, %%rax\n\t"
                   "jnz 1f\n\t"
                   "mov %[getppid], %%eax\n\t"
                   "syscall\n\t"
                   "xor %%edi, %%edi\n\t"
                   "mov %[leave], %%eax\n\t"
                   "syscall\n"
                   "1:"
                   : "=a"(result)
                   : "a"(SYS_clone), "D"((long)FLAGS), "S"(stack + sizeof stack), "d"(0L), "r"(r10), "r"(r8),
                     [getppid] "i"(SYS_getppid), [leave] "i"(SYS_exit)
                   : "rcx", "r11", "memory");
  if (result < 0)
    call(SYS_exit_group, 1, 0, 0, 0);
}

__attribute__((used)) void begin(long *words) {
  const char *text = (const char *)words[2];
  long count = 0;
  for (; *text; text++)
    count = count * 10 + (*text - '0');
  for (long i = 0; i < count; i++) {
    lives = 1;
    start();
    while (__atomic_load_n(&lives, __ATOMIC_ACQUIRE))
      call(SYS_futex, (long)&lives, 0, 1, 0);
  }
  call(SYS_exit_group, 0, 0, 0, 0);
}

__asm__(".globl _start\n_start:\n\tmov %rsp, %rdi\n\tcall begin\n");
