// SPDX-License-Identifier: MIT OR GPL-2.0
//
// Adds up, in the kernel, the system calls of the processes of one PID namespace, or of all.
//
// Built without any header: `make bpf`. The object beside this file is committed; a test builds it again where clang is
// there and compares. Layouts are shared with ../bpf.rs.
//
// A call is counted in `steps` when it begins (with the call before it in the same thread) and in `calls` when it
// returns. What finds no room is counted for each CPU in `lost`.

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
static u64 (*get_current_task)(void) = (void *)35;
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

// The few fields that are read; where they are is put in when the program is loaded.
#define KERNEL __attribute__((preserve_access_index))
struct ns_common { u32 inum; } KERNEL;
struct net { struct ns_common ns; } KERNEL;
struct nsproxy { struct net *net_ns; } KERNEL;
struct inode { u16 i_mode; } KERNEL;
struct file { struct inode *f_inode; } KERNEL;
struct fdtable { struct file **fd; } KERNEL;
struct files_struct { struct fdtable *fdt; } KERNEL;
struct task_struct { struct nsproxy *nsproxy; struct files_struct *files; } KERNEL;

#define BINS 128
#define NO_CALL 0xffff   // before a thread's first call
#define OTHER_ABI 0x1000 // added to the number of a call of the 32-bit ABI

// Kinds of descriptors.
enum { UNKNOWN = 0, SOCKET = 1, REGULAR = 2, PIPE = 3, OTHER = 4 };
// What a call is, by its number: bits.
enum { TRANSFERS = 1, RENAMES = 2, RETURNS_ANYTHING = 4 };

// Steps of a thread that are not in `steps` yet: looking there for each call would cost more than all the rest.
#define PENDING 32
struct pending {
  u32 step; // number before, number
  u32 count;
};

struct thread {
  u32 number; // 0: a free place in `places`
  u32 process;
  u64 entered_ns;
  u64 sequence; // hash of the calls so far
  u64 count;
  u32 previous;
  u32 call;
  u8 inside;
  u8 kind;
  u8 class;
  u8 abi;
  u32 zero;
  struct pending pending[PENDING];
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
MAP(calls, PERCPU_HASH, 2048, u32, struct calls);
MAP(steps, PERCPU_HASH, 16384, u64, u64);
MAP(errors, PERCPU_HASH, 2048, u64, u64);
MAP(sizes, PERCPU_HASH, 512, u64, struct sizes);
MAP(ended, PERCPU_HASH, 1024, u32, struct ended);
MAP(lost, PERCPU_ARRAY, 1, u32, struct lost);
MAP(next_process, ARRAY, 1, u32, u32);
MAP(classes, ARRAY, 1024, u32, u8);
MAP(empty, ARRAY, 1, u32, struct calls); // as long as the longest value
struct {
  int(*type)[RINGBUF];
  int(*max_entries)[1 << 20];
} entries SEC(".maps");

#define LOSE(what)                                                                                                     \
  do {                                                                                                                 \
    u32 zero = 0;                                                                                                      \
    struct lost *l = map_lookup(&lost, &zero);                                                                         \
    if (l)                                                                                                             \
      l->what++;                                                                                                       \
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
  struct task_struct *task = (void *)get_current_task();
  struct nsproxy *proxy = 0;
  struct net *net = 0;
  u32 number = 0;
  if (read_kernel(&proxy, sizeof proxy, &task->nsproxy) || read_kernel(&net, sizeof net, &proxy->net_ns) ||
      read_kernel(&number, sizeof number, &net->ns.inum))
    return 0;
  return number;
}

// What the current process's descriptor is. One beyond the table's end reads anything, but then the call fails.
INLINE u8 kind_of(u32 fd) {
  if (!kernel_types)
    return UNKNOWN;
  struct task_struct *task = get_current_task_btf();
  struct files_struct *files = task->files;
  struct file *file = 0;
  struct inode *inode = 0;
  u16 mode = 0;
  if (!files)
    return UNKNOWN;
  if (read_kernel(&file, sizeof file, files->fdt->fd + fd) || !file ||
      read_kernel(&inode, sizeof inode, &file->f_inode) || read_kernel(&mode, sizeof mode, &inode->i_mode))
    return UNKNOWN;
  switch (mode & 0170000) {
  case 0140000: return SOCKET;
  case 0100000: return REGULAR;
  case 0010000: return PIPE;
  default: return OTHER;
  }
}

// Number of the process name, from 1; 0 when there is no room for another one.
INLINE u32 process_of(void) {
  struct name name = {};
  u32 zero = 0;
  get_current_comm(name.comm, sizeof name.comm);
  name.network = network_of();
  u32 *known = map_lookup(&names, &name);
  if (known)
    return *known;
  u32 *next = map_lookup(&next_process, &zero);
  if (!next)
    return 0;
  u32 number = __sync_fetch_and_add(next, 1) + 1;
  map_update(&names, &name, &number, NOEXIST);
  known = map_lookup(&names, &name);
  return known ? *known : 0;
}

// Takes the steps that wait to their table.
INLINE void add_pending(u32 process, struct pending *p) {
  u64 key = (u64)process << 32 | p->step;
  u64 *count = find_or_add(&steps, &key);
  if (count) {
    *count += p->count;
  } else {
    u32 zero = 0;
    struct lost *l = map_lookup(&lost, &zero);
    if (l)
      l->steps += p->count;
  }
  p->count = 0;
}

INLINE void count_step(struct thread *t, u32 number) {
  u32 step = t->previous << 16 | number;
  struct pending *p = &t->pending[(t->previous * 5 + number) & (PENDING - 1)];
  if (p->count && (p->step != step || p->count >> 31))
    add_pending(t->process, p);
  p->step = step;
  p->count++;
}

INLINE void end_sequence(struct thread *t) {
  if (!t->count)
    return;
#pragma clang loop unroll(disable)
  for (int i = 0; i < PENDING; i++)
    if (t->pending[i].count)
      add_pending(t->process, &t->pending[i]);
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

// Is the caller of the 32-bit ABI?
INLINE u8 abi_of(const void *registers) {
  u64 segment = 0;
  if (!segment_at || read_kernel(&segment, sizeof segment, registers + segment_at))
    return 0;
  return segment == 0x23;
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

INLINE void log_call(struct thread *t, u64 id, u64 took, s64 result) {
  struct entry *e = ringbuf_reserve(&entries, sizeof *e, 0);
  if (!e) {
    LOSE(logged);
    return;
  }
  e->entered_ns = t->entered_ns;
  e->took_ns = took;
  e->result = result;
  e->thread = id;
  e->task = id >> 32;
  e->process = t->process;
  e->call = t->call;
  ringbuf_submit(e, 1); // no wake-up: the reader looks by itself
}

struct arguments {
  u64 first;  // registers, or the task that ends
  u64 second; // number or result
};

SEC("raw_tracepoint/sys_enter") int call_begins(struct arguments *ctx) {
  u64 id = get_current_pid_tgid();
  u32 tid = id;
  const void *registers = (void *)ctx->first;
  struct thread *t = find_thread(tid);
  if (!t) {
    if (!wanted())
      return 0;
    t = add_thread(tid);
    if (!t) {
      LOSE(begun);
      return 0;
    }
    t->abi = abi_of(registers);
  }
  u32 number = ctx->second & 0x3ff;
  u8 *class = map_lookup(&classes, &number);
  t->class = class && !t->abi ? *class : 0;
  if (t->abi)
    number |= OTHER_ABI;
  if (t->class & TRANSFERS) {
    u64 fd = 0;
    t->kind = read_kernel(&fd, sizeof fd, registers + argument_at) ? UNKNOWN : kind_of(fd);
  }
  count_step(t, number);
  t->sequence = mixed(t->sequence + number + 1);
  t->count++;
  t->previous = number;
  t->call = number;
  t->inside = 1;
  t->entered_ns = ktime_get_ns();
  return 0;
}

SEC("raw_tracepoint/sys_exit") int call_returns(struct arguments *ctx) {
  u64 id = get_current_pid_tgid();
  u32 tid = id;
  struct thread *t = find_thread(tid);
  if (!t || !t->inside) // a new thread returns from a call it did not begin
    return 0;
  u64 took = ktime_get_ns() - t->entered_ns;
  s64 result = ctx->second;
  u32 call = t->call;
  int failed = result < 0 && result >= -4095 && !(t->class & RETURNS_ANYTHING);
  t->inside = 0;

  u32 key = t->process << 16 | call;
  struct calls *c = find_or_add(&calls, &key);
  if (c) {
    c->returned++;
    c->errors += failed;
    c->total_ns += took;
    if (took > c->most_ns)
      c->most_ns = took;
    c->bins[bin_of(took >> 4) & (BINS - 1)]++;
  } else {
    LOSE(returned);
  }
  if (failed) {
    u64 which = (u64)key << 32 | -result;
    u64 *count = find_or_add(&errors, &which);
    if (count)
      ++*count;
    else
      LOSE(errors);
  } else if (t->class & TRANSFERS) {
    u64 which = (u64)key << 32 | t->kind;
    struct sizes *s = find_or_add(&sizes, &which);
    if (s) {
      s->count++;
      s->bytes += result;
      s->zero += !result;
      if ((u64)result > s->most)
        s->most = result;
      s->bins[bin_of(result) & (BINS - 1)]++;
    } else {
      LOSE(sizes);
    }
  }
  if (with_log)
    log_call(t, id, took, result);
  if (t->class & RENAMES && !failed) {
    u32 process = process_of();
    if (process != t->process) {
      end_sequence(t);
      if (process) {
        begin_sequence(t, process);
        t->abi = abi_of((void *)ctx->first);
      } else {
        forget(t, tid); // its next call is counted as lost
      }
    }
  }
  return 0;
}

SEC("raw_tracepoint/sched_process_exit") int thread_ends(void *ctx) {
  u64 id = get_current_pid_tgid();
  u32 tid = id;
  struct thread *t = find_thread(tid);
  if (!t)
    return 0;
  if (with_log && t->inside)
    log_call(t, id, ~0ull, 0);
  end_sequence(t);
  forget(t, tid);
  return 0;
}

char licence[] SEC("license") = "Dual MIT/GPL";
