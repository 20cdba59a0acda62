// SPDX-License-Identifier: MIT OR GPL-2.0
//
// Adds up, in the kernel, the system calls of the processes of one PID namespace, or of all.
//
// Built without any header: `make bpf`. The object beside this file is committed; a test builds it again where clang is
// there and compares. Layouts are shared with ../bpf.rs.
//
// A call is counted in `steps` when it begins (with the call before it in the same thread) and in `calls` when it
// returns. What finds no room is counted for each CPU in `lost`.
//
// Every helper costs more than all the arithmetic here, those that look into hash tables most. So a thread keeps the
// steps and errors it makes again and again, and remembers the rows of its calls; and where the kernel describes its types
// (`tp_btf`), its structures are read by plain loads. What depends on that stands behind `kernel_types`, which is known
// before the program is checked.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long s64;

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))

enum { HASH = 1, PERCPU_HASH = 5, PERCPU_ARRAY = 6, ARRAY = 2, RINGBUF = 27 };
enum { ANY = 0, NOEXIST = 1 };

static void *(*map_lookup)(void *map, const void *key) = (void *)1;
static long (*map_update)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static long (*map_delete)(void *map, const void *key) = (void *)3;
static u64 (*ktime_get_ns)(void) = (void *)5;
static u64 (*get_current_pid_tgid)(void) = (void *)14;
static long (*get_current_comm)(void *buffer, u32 size) = (void *)16;
static void *(*get_current_task_btf)(void) = (void *)158;
static long (*read_kernel)(void *to, u32 size, const void *from) = (void *)113;
static long (*get_ns_current_pid_tgid)(u64 device, u64 inode, void *numbers, u32 size) = (void *)120;
static void *(*ringbuf_reserve)(void *ring, u64 size, u64 flags) = (void *)131;
static void (*ringbuf_submit)(void *data, u64 flags) = (void *)132;

// Set before loading.
volatile const u64 ns_device = 0; // of the PID namespace
volatile const u64 ns_inode = 0;  // 0: all processes
volatile const u64 own_device = 0; // vptest's own PID namespace, and its number in there: never followed
volatile const u64 own_inode = 0;
volatile const u32 own_number = 0;
volatile const u32 kernel_types = 0; // the kernel says where its fields are
volatile const u32 with_log = 0;
volatile const u32 argument_at = 112; // first argument in pt_regs; 112 is x86-64
volatile const u32 last_place = 4095;
volatile const u32 segment_at = 136;  // code segment in pt_regs; 0: no other ABI
volatile const u8 classes[1024] = {}; // what a call is, by its number

// The few fields that are read; where they are is put in when the program is loaded.
#define KERNEL __attribute__((preserve_access_index))
struct ns_common { u32 inum; } KERNEL;
struct net { struct ns_common ns; } KERNEL;
struct nsproxy { struct net *net_ns; } KERNEL;
struct inode { u16 i_mode; } KERNEL;
struct file { struct inode *f_inode; } KERNEL;
struct fdtable { u32 max_fds; struct file **fd; } KERNEL;
struct files_struct { struct fdtable *fdt; struct fdtable fdtab; struct file *fd_array[64]; } KERNEL;
struct task_struct { int pid; struct nsproxy *nsproxy; struct files_struct *files; } KERNEL;

#define BINS 128
#define NO_CALL 0xffff   // before a thread's first call
#define OTHER_ABI 0x1000 // added to the number of a call of the 32-bit ABI

// Kinds of descriptors.
enum { UNKNOWN = 0, SOCKET = 1, REGULAR = 2, PIPE = 3, OTHER = 4 };
// What a call is, by its number: bits.
enum { TRANSFERS = 1, RENAMES = 2, RETURNS_ANYTHING = 4 };

// A step of a thread that is not in `steps` yet, and where its second call is counted.
struct step {
  u32 step;  // number before, number, plus 1; 0: none
  u32 count; // not in `steps` yet
  u32 row;   // of `calls`, plus 1; 0: not looked up
  u32 size_row; // of `sizes`, plus 1, and above it the kind; 0: not looked up
};
#define WAYS 4 // that are looked at for one step: a cache line
#define STEPS 32
#define KIND_AT 28

// Errors of a thread that are not in `errors` yet.
struct failure {
  u32 which; // call, error
  u32 count;
};
#define FAILURES 8

struct thread {
  u32 number; // 0: a free place in `places`
  u32 process;
  u64 entered_ns;
  u64 sequence; // hash of the calls so far
  u64 count;
  u32 previous;
  u32 call;
  u32 at; // of its step
  u8 inside;
  u8 kind;
  u8 class;
  u8 abi;
  u64 zero[2];
  struct step steps[STEPS];
  struct failure failures[FAILURES];
};

struct name {
  u8 comm[16];
  u32 network; // inode of the network namespace
  u32 zero;
};

struct calls {
  u64 returned;
  u64 errors;
  u64 total_ns;
  u64 most_ns;
  u32 bins[BINS]; // of 16 ns
};

struct sizes {
  u64 count;
  u64 bytes;
  u64 most;
  u64 zero;
  u32 bins[BINS];
};

struct ended {
  u64 threads;
  u64 sequence; // sum over threads
  u64 count;
};

struct lost {
  u64 begun;    // calls of threads or processes that found no room
  u64 returned; // returns that are in no row of `calls`
  u64 steps;    // begun calls that are in no row of `steps`
  u64 errors;   // errors that are in no row of `errors`
  u64 sizes;    // transfers that are in no row of `sizes`
  u64 logged;   // log entries that found no room
};

struct entry {
  u64 entered_ns;
  u64 took_ns;
  s64 result;
  u32 thread;
  u32 task; // tgid
  u32 process;
  u32 call;
};

#define MAP(name, kind, entries, K, V)                                                                                 \
  struct {                                                                                                             \
    int(*type)[kind];                                                                                                  \
    int(*max_entries)[entries];                                                                                        \
    K *key;                                                                                                            \
    V *value;                                                                                                          \
  } name SEC(".maps")

MAP(places, ARRAY, 4096, u32, struct thread);  // a thread's place is its number modulo their number, a power of two
MAP(threads, HASH, 16384, u32, struct thread); // those whose place is taken
MAP(names, HASH, 1024, struct name, u32);
MAP(call_rows, HASH, 2048, u32, u32); // process, call: row of `calls`
MAP(calls, PERCPU_ARRAY, 2048, u32, struct calls);
MAP(steps, PERCPU_HASH, 16384, u64, u64);
MAP(errors, PERCPU_HASH, 2048, u64, u64);
MAP(size_rows, HASH, 512, u64, u32); // process, call, kind: row of `sizes`
MAP(sizes, PERCPU_ARRAY, 512, u32, struct sizes);
MAP(ended, PERCPU_HASH, 1024, u32, struct ended);
MAP(lost, PERCPU_ARRAY, 1, u32, struct lost);
MAP(next, ARRAY, 3, u32, u32); // numbers of names, rows of `calls`, rows of `sizes` that were given out
enum { NEXT_NAME = 0, NEXT_CALL = 1, NEXT_SIZE = 2 };
MAP(empty, ARRAY, 1, u32, struct thread); // as long as the longest value
struct {
  int(*type)[RINGBUF];
  int(*max_entries)[1 << 20];
} entries SEC(".maps");

#define LOSE(what, n)                                                                                                  \
  do {                                                                                                                 \
    u32 zero = 0;                                                                                                      \
    struct lost *l = map_lookup(&lost, &zero);                                                                         \
    if (l)                                                                                                             \
      l->what += (n);                                                                                                  \
  } while (0)

INLINE void *find_or_add(void *map, const void *key) {
  void *value = map_lookup(map, key);
  if (value)
    return value;
  u32 zero = 0;
  void *nothing = map_lookup(&empty, &zero);
  if (!nothing)
    return 0;
  map_update(map, key, nothing, NOEXIST); // another CPU may be faster
  return map_lookup(map, key);
}

// The number that belongs to a key, from 1; a new one for a new key. 0 when there is no room for another key. Two CPUs that
// come at once may leave a number unused.
INLINE u32 number_of(void *map, const void *key, u32 which) {
  u32 *known = map_lookup(map, key);
  if (known)
    return *known;
  u32 *given = map_lookup(&next, &which);
  if (!given)
    return 0;
  u32 number = __sync_fetch_and_add(given, 1) + 1;
  map_update(map, key, &number, NOEXIST);
  known = map_lookup(map, key);
  return known ? *known : 0;
}

// Which bin a value is in: values below 4 have one each, then four for each power of two.
INLINE u32 bin_of(u64 value) {
  if (value < 4)
    return value;
  if (value >> 32)
    return BINS - 1;
  u32 v = value, e = 0;
  if (v >> 16) { v >>= 16; e += 16; }
  if (v >> 8) { v >>= 8; e += 8; }
  if (v >> 4) { v >>= 4; e += 4; }
  if (v >> 2) { v >>= 2; e += 2; }
  if (v >> 1) e += 1;
  return e * 4 - 4 + ((value >> (e - 2)) & 3);
}

// Compilers leave masks out that they know to change nothing, but kernels' checks (6.1) do not know as much. The statement
// without code keeps it.
INLINE u32 masked(u32 n, u32 mask) {
  __asm__ volatile("" : "+r"(n));
  return n & mask;
}

INLINE u64 mixed(u64 x) {
  x ^= x >> 31;
  x *= 0x7fb5d329728ea185ull;
  x ^= x >> 27;
  x *= 0x81dadef4bc2dd44dull;
  return x ^ x >> 33;
}

INLINE u32 network_of(void) {
  if (!kernel_types)
    return 0;
  struct task_struct *task = get_current_task_btf();
  struct nsproxy *proxy = task->nsproxy;
  return proxy ? proxy->net_ns->ns.inum : 0;
}

INLINE u8 kind_of_mode(u16 mode) {
  switch (mode & 0170000) {
  case 0140000: return SOCKET;
  case 0100000: return REGULAR;
  case 0010000: return PIPE;
  default: return OTHER;
  }
}

// The offset into an array must be known when the program is checked. The statement without code keeps the loads apart.
#define AT(n)                                                                                                          \
  case n:                                                                                                              \
    file = files->fd_array[n];                                                                                         \
    __asm__ volatile("" : "+r"(file));                                                                                 \
    break;
#define AT8(n) AT(n) AT(n + 1) AT(n + 2) AT(n + 3) AT(n + 4) AT(n + 5) AT(n + 6) AT(n + 7)

// What the current process's descriptor is; unknown for none: then the call fails.
INLINE u8 kind_of(struct task_struct *task, u32 fd) {
  struct files_struct *files = task->files;
  if (!files)
    return UNKNOWN;
  struct fdtable *table = files->fdt;
  if (fd >= table->max_fds)
    return UNKNOWN;
  struct file *file = 0;
  if (fd < 64 && (void *)table == (void *)&files->fdtab) {
    switch (fd) { AT8(0) AT8(8) AT8(16) AT8(24) AT8(32) AT8(40) AT8(48) AT8(56) }
    return file ? kind_of_mode(file->f_inode->i_mode) : UNKNOWN;
  }
  struct inode *inode = 0;
  u16 mode = 0;
  if (read_kernel(&file, sizeof file, table->fd + fd) || !file ||
      read_kernel(&inode, sizeof inode, &file->f_inode) || read_kernel(&mode, sizeof mode, &inode->i_mode))
    return UNKNOWN;
  return kind_of_mode(mode);
}

// Number of the process name, from 1; 0 when there is no room for another one.
INLINE u32 process_of(void) {
  struct name name = {};
  get_current_comm(name.comm, sizeof name.comm);
  name.network = network_of();
  return number_of(&names, &name, NEXT_NAME);
}

// Takes a step's count to its table.
INLINE void add_step(u32 process, struct step *s) {
  u64 key = (u64)process << 32 | (s->step - 1);
  u64 *count = find_or_add(&steps, &key);
  if (count)
    *count += s->count;
  else
    LOSE(steps, s->count);
  s->count = 0;
}

INLINE struct step *step_at(struct thread *t, u32 at) {
  return &t->steps[masked(at, STEPS - 1)];
}

INLINE void count_step(struct thread *t, u32 number) {
  u32 step = (t->previous << 16 | number) + 1;
  u32 first = (t->previous * 5 + number) * WAYS & (STEPS - 1), at = 0;
  struct step *s = 0;
#pragma clang loop unroll(full)
  for (u32 way = 0; way < WAYS; way++) {
    at = first + way & (STEPS - 1);
    s = step_at(t, at);
    if (s->step == step) {
      if (s->count >> 31)
        add_step(t->process, s);
      goto found;
    }
  }
  // An empty place, or whichever has its turn.
  at = first + (t->count & (WAYS - 1)) & (STEPS - 1);
#pragma clang loop unroll(full)
  for (u32 way = 0; way < WAYS; way++)
    if (!step_at(t, first + way)->step)
      at = first + way & (STEPS - 1);
  s = step_at(t, at);
  if (s->count)
    add_step(t->process, s);
  s->step = step;
  s->row = 0;
  s->size_row = 0;
found:
  s->count++;
  t->at = at;
}

// Takes an error's count to its table.
INLINE void add_failure(u32 process, struct failure *f) {
  u64 key = (u64)(process << 16 | f->which >> 16) << 32 | (f->which & 0xffff);
  u64 *count = find_or_add(&errors, &key);
  if (count)
    *count += f->count;
  else
    LOSE(errors, f->count);
  f->count = 0;
}

INLINE void count_failure(struct thread *t, u32 error) {
  u32 which = t->call << 16 | error;
  struct failure *f = &t->failures[masked(t->call + error, FAILURES - 1)];
  if (f->count && (f->which != which || f->count >> 31))
    add_failure(t->process, f);
  f->which = which;
  f->count++;
}

INLINE void end_sequence(struct thread *t) {
  if (!t->count)
    return;
#pragma clang loop unroll(disable)
  for (int i = 0; i < STEPS; i++) {
    if (t->steps[i].count)
      add_step(t->process, &t->steps[i]);
    t->steps[i].step = 0;
  }
#pragma clang loop unroll(disable)
  for (int i = 0; i < FAILURES; i++)
    if (t->failures[i].count)
      add_failure(t->process, &t->failures[i]);
  struct ended *e = find_or_add(&ended, &t->process);
  if (!e) // there are as many rows as in `names`
    return;
  e->threads++;
  e->count += t->count;
  e->sequence += mixed(t->sequence + t->count);
}

INLINE void begin_sequence(struct thread *t, u32 process) {
  t->process = process;
  t->previous = NO_CALL;
  t->sequence = 0;
  t->count = 0;
}

// A register. `tp_btf` hands over a pointer that can be followed.
INLINE u64 register_at(const void *registers, u32 at) {
  if (kernel_types)
    return *(const u64 *)(registers + at);
  u64 value = 0;
  return read_kernel(&value, sizeof value, registers + at) ? 0 : value;
}

INLINE u32 current_number(void) {
  if (kernel_types)
    return ((struct task_struct *)get_current_task_btf())->pid;
  return get_current_pid_tgid();
}

// Is the caller of the 32-bit ABI?
INLINE u8 abi_of(const void *registers) {
  return segment_at && (u16)register_at(registers, segment_at) == 0x23;
}

INLINE int wanted(void) {
  u32 numbers[2]; // of the thread, of its process
  if (ns_inode)
    return !get_ns_current_pid_tgid(ns_device, ns_inode, numbers, sizeof numbers);
  return get_ns_current_pid_tgid(own_device, own_inode, numbers, sizeof numbers) || numbers[1] != own_number;
}

INLINE struct thread *find_thread(u32 number) {
  u32 at = number & last_place;
  struct thread *t = map_lookup(&places, &at);
  if (t && t->number == number)
    return t;
  return map_lookup(&threads, &number);
}

// A thread that is not known yet; its place is as `forget` or the beginning left it.
INLINE struct thread *add_thread(u32 number) {
  u32 process = process_of();
  if (!process)
    return 0;
  u32 at = number & last_place, zero = 0;
  struct thread *t = map_lookup(&places, &at);
  if (!t || __sync_val_compare_and_swap(&t->number, 0, number)) {
    void *nothing = map_lookup(&empty, &zero);
    if (!nothing || map_update(&threads, &number, nothing, ANY))
      return 0;
    t = map_lookup(&threads, &number);
    if (!t)
      return 0;
    t->number = number;
  }
  begin_sequence(t, process);
  t->inside = 0;
  return t;
}

INLINE void forget(struct thread *t, u32 number) {
  u32 at = number & last_place;
  struct thread *place = map_lookup(&places, &at);
  if (place && place->number == number)
    place->number = 0;
  else
    map_delete(&threads, &number);
}

INLINE void log_call(struct thread *t, u64 took, s64 result) {
  struct entry *e = ringbuf_reserve(&entries, sizeof *e, 0);
  if (!e) {
    LOSE(logged, 1);
    return;
  }
  u64 id = get_current_pid_tgid();
  e->entered_ns = t->entered_ns;
  e->took_ns = took;
  e->result = result;
  e->thread = id;
  e->task = id >> 32;
  e->process = t->process;
  e->call = t->call;
  ringbuf_submit(e, 1); // no wake-up: the reader looks by itself
}

INLINE int begins(const void *registers, u64 which) {
  u32 tid = current_number();
  struct thread *t = find_thread(tid);
  if (!t) {
    if (!wanted())
      return 0;
    t = add_thread(tid);
    if (!t) {
      LOSE(begun, 1);
      return 0;
    }
    t->abi = abi_of(registers);
  }
  u32 number = which & 0x3ff;
  t->class = t->abi ? 0 : classes[number];
  if (t->abi)
    number |= OTHER_ABI;
  t->kind = UNKNOWN;
  if (kernel_types && t->class & TRANSFERS)
    t->kind = kind_of(get_current_task_btf(), register_at(registers, argument_at));
  count_step(t, number);
  t->sequence = mixed(t->sequence + number + 1);
  t->count++;
  t->previous = number;
  t->call = number;
  t->inside = 1;
  t->entered_ns = ktime_get_ns();
  return 0;
}

INLINE void count_return(struct thread *t, struct step *step, u64 took, int failed) {
  u32 row = step->row;
  if (!row) {
    u32 key = t->process << 16 | t->call;
    step->row = row = number_of(&call_rows, &key, NEXT_CALL);
  }
  row--; // without room far beyond the last
  struct calls *c = map_lookup(&calls, &row);
  if (!c) {
    LOSE(returned, 1);
    return;
  }
  c->returned++;
  c->errors += failed;
  c->total_ns += took;
  if (took > c->most_ns)
    c->most_ns = took;
  c->bins[masked(bin_of(took >> 4), BINS - 1)]++;
}

INLINE void count_size(struct thread *t, struct step *step, u64 size) {
  u32 row = step->size_row;
  if (!row || row >> KIND_AT != t->kind) {
    u64 key = (u64)(t->process << 16 | t->call) << 32 | t->kind;
    row = number_of(&size_rows, &key, NEXT_SIZE);
    row = row >> KIND_AT ? 0 : row;
    step->size_row = row ? row | (u32)t->kind << KIND_AT : 0;
  }
  row = (row & ((1 << KIND_AT) - 1)) - 1;
  struct sizes *s = map_lookup(&sizes, &row);
  if (!s) {
    LOSE(sizes, 1);
    return;
  }
  s->count++;
  s->bytes += size;
  s->zero += !size;
  if (size > s->most)
    s->most = size;
  s->bins[masked(bin_of(size), BINS - 1)]++;
}

INLINE int returns(const void *registers, s64 result) {
  u32 tid = current_number();
  struct thread *t = find_thread(tid);
  if (!t || !t->inside) // a new thread returns from a call it did not begin
    return 0;
  u64 took = ktime_get_ns() - t->entered_ns;
  int failed = result < 0 && result >= -4095 && !(t->class & RETURNS_ANYTHING);
  struct step *step = step_at(t, t->at);
  t->inside = 0;
  count_return(t, step, took, failed);
  if (failed)
    count_failure(t, -result);
  else if (t->class & TRANSFERS)
    count_size(t, step, result);
  if (with_log)
    log_call(t, took, result);
  // The other ABI's calls have no classes, so any of them may be the one that executes a program.
  if ((t->class & RENAMES || t->abi) && !failed) {
    t->abi = abi_of(registers);
    u32 process = process_of();
    if (process != t->process) {
      end_sequence(t);
      if (process) {
        begin_sequence(t, process);
      } else {
        forget(t, tid); // its next call is counted as lost
      }
    }
  }
  return 0;
}

INLINE void ends(u32 number) {
  struct thread *t = find_thread(number);
  if (!t)
    return;
  if (with_log && t->inside)
    log_call(t, ~0ull, 0);
  end_sequence(t);
  forget(t, number);
}

SEC("tp_btf/sys_enter") int begins_typed(u64 *ctx) { return begins((void *)ctx[0], ctx[1]); }
SEC("tp_btf/sys_exit") int returns_typed(u64 *ctx) { return returns((void *)ctx[0], ctx[1]); }
SEC("raw_tracepoint/sys_enter") int begins_raw(u64 *ctx) { return begins((void *)ctx[0], ctx[1]); }
SEC("raw_tracepoint/sys_exit") int returns_raw(u64 *ctx) { return returns((void *)ctx[0], ctx[1]); }

SEC("raw_tracepoint/sched_process_exit") int thread_ends(void *ctx) {
  ends(get_current_pid_tgid());
  return 0;
}

// A thread that is not its process's first one takes the number of the first when it executes a program; its own may be given
// to another thread.
SEC("raw_tracepoint/sched_process_exec") int thread_executes(u64 *ctx) { // task, old number
  u32 old = ctx[1];
  if (old != (u32)get_current_pid_tgid())
    ends(old);
  return 0;
}

char licence[] SEC("license") = "Dual MIT/GPL";
