/*
 * The lists of system calls as seccomp filters. A call that is not allowed answers EPERM, so that a
 * library which asks for too much goes on without it; a call by the numbers of another architecture
 * ends the process. The kernel remembers the answers that depend on the number alone, so they cost
 * nothing.
 *
 * The server's own processes have a list of what they may. Programs of the operator's have one of
 * what they may not: nobody knows what else they need.
 */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "guard/inside.h"

#if defined(__x86_64__)
#define OWN_ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define OWN_ARCHITECTURE AUDIT_ARCH_AARCH64
#else
#define OWN_ARCHITECTURE 0
#endif

enum { PROGRAM_MOST = 4000, OTHER_NUMBERS = 0x40000000 };

struct program {
    struct sock_filter steps[PROGRAM_MOST];
    unsigned short count;
};

static void add(struct program *program, struct sock_filter step)
{
    INVARIANT(program->count < PROGRAM_MOST);
    program->steps[program->count++] = step;
}

static void add_load(struct program *program, size_t offset)
{
    add(program, (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)offset));
}

static void add_answer(struct program *program, uint32_t answer)
{
    add(program, (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, answer));
}

static void allow(struct program *program, long number)
{
    add(program, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)number, 0, 1));
    add_answer(program, SECCOMP_RET_ALLOW);
}

static void refuse(struct program *program, long number, int error)
{
    add(program, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)number, 0, 1));
    add_answer(program, SECCOMP_RET_ERRNO | (uint32_t)error);
}

static size_t argument_at(unsigned index)
{
    return offsetof(struct seccomp_data, args) + index * sizeof(uint64_t); /* its lower half */
}

/* Allowed when the argument is one of these, else `error`. */
static void allow_values(struct program *program, long number, unsigned index,
                         const uint32_t *values, unsigned count)
{
    /* A jump over: the load, two steps a value, the refusal. */
    add(program, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)number, 0,
                                              (uint8_t)(2 * count + 2)));
    add_load(program, argument_at(index));
    for (unsigned i = 0; i < count; i++)
        allow(program, (long)values[i]);
    add_answer(program, SECCOMP_RET_ERRNO | EPERM);
}

/* Allowed when the argument has (or has not) one of the bits. */
static void allow_bits(struct program *program, long number, unsigned index, uint32_t bits,
                       bool set)
{
    add(program, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)number, 0, 4));
    add_load(program, argument_at(index));
    add(program,
        (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, bits, set ? 1 : 0, set ? 0 : 1));
    add_answer(program, SECCOMP_RET_ERRNO | EPERM);
    add_answer(program, SECCOMP_RET_ALLOW);
}

static void add_head(struct program *program)
{
    add_load(program, offsetof(struct seccomp_data, arch));
    add(program, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, OWN_ARCHITECTURE, 1, 0));
    add_answer(program, SECCOMP_RET_KILL_PROCESS);
    add_load(program, offsetof(struct seccomp_data, nr));
    add(program, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, OTHER_NUMBERS, 0, 1));
    add_answer(program, SECCOMP_RET_ERRNO | ENOSYS);
}

/* What the worker may do in part. */
static void add_partly(struct program *program)
{
    static const uint32_t families[] = {AF_UNIX, AF_INET, AF_INET6, AF_NETLINK};
    static const uint32_t controls[] = {FIONBIO, FIONREAD, FIOCLEX, TCGETS, SIOCOUTQ};
    static const uint32_t processes[] = {PR_SET_NAME, PR_GET_NAME, PR_SET_VMA};
    const uint32_t self[] = {(uint32_t)getpid()}, us[] = {0};

    allow_values(program, __NR_socket, 0, families, COUNT_OF(families));
    allow_values(program, __NR_ioctl, 1, controls, COUNT_OF(controls));
    allow_values(program, __NR_prctl, 0, processes, COUNT_OF(processes));
    allow_bits(program, __NR_clone, 0, CLONE_THREAD, true); /* threads, never a process */
    refuse(program, __NR_clone3, ENOSYS);                   /* glibc then uses clone */
    allow_values(program, __NR_tgkill, 0, self, COUNT_OF(self));
    allow_bits(program, __NR_prlimit64, 2, UINT32_MAX, false); /* to ask, not to set */
    allow_values(program, __NR_sched_setaffinity, 0, us, COUNT_OF(us));
}

/* Memory is never made executable. */
static void add_memory(struct program *program)
{
    allow_bits(program, __NR_mmap, 2, PROT_EXEC, false);
    allow_bits(program, __NR_mprotect, 2, PROT_EXEC, false);
}

static void add_worker(struct program *program)
{
#define CALL(name) allow(program, __NR_##name);
#define KEEPER(name) allow(program, __NR_##name);
#define SHARED(name) allow(program, __NR_##name);
#include "guard/syscalls.def"
    add_partly(program);
}

static void add_keeper(struct program *program)
{
    const uint32_t self[] = {(uint32_t)getpid()};

#define KEEPER(name) allow(program, __NR_##name);
#include "guard/syscalls.def"
    allow_values(program, __NR_tgkill, 0, self, COUNT_OF(self));
}

static void add_watcher(struct program *program)
{
#define SHARED(name) allow(program, __NR_##name);
#define WATCHER(name) allow(program, __NR_##name);
#include "guard/syscalls.def"
}

/* ------------------------------------------------------------------ who starts programs */

/* Allowed when each of its first arguments is one of these, or "as it is" (-1). */
static void allow_ids(struct program *program, long number, unsigned arguments,
                      const uint32_t *values, unsigned count)
{
    add(program, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)number, 1, 0));
    const unsigned over = program->count;
    add(program, (struct sock_filter)BPF_STMT(BPF_JMP | BPF_JA, 0));
    for (unsigned i = 0; i < arguments; i++) {
        add_load(program, argument_at(i));
        for (unsigned k = 0; k < count; k++)
            add(program, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, values[k],
                                                      (uint8_t)(count - k + 1), 0));
        add(program, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, UINT32_MAX, 1, 0));
        add_answer(program, SECCOMP_RET_ERRNO | EPERM);
    }
    add_answer(program, SECCOMP_RET_ALLOW);
    program->steps[over].k = program->count - over - 1u;
}

static void add_ids(struct program *program, const struct guard_ids *ids)
{
    allow_ids(program, __NR_setuid, 1, ids->users, ids->user_count);
    allow_ids(program, __NR_setfsuid, 1, ids->users, ids->user_count);
    allow_ids(program, __NR_setreuid, 2, ids->users, ids->user_count);
    allow_ids(program, __NR_setresuid, 3, ids->users, ids->user_count);
    allow_ids(program, __NR_setgid, 1, ids->groups, ids->group_count);
    allow_ids(program, __NR_setfsgid, 1, ids->groups, ids->group_count);
    allow_ids(program, __NR_setregid, 2, ids->groups, ids->group_count);
    allow_ids(program, __NR_setresgid, 3, ids->groups, ids->group_count);
}

/* Refused when the argument is one of these. */
static void refuse_values(struct program *program, long number, unsigned index,
                          const uint32_t *values, unsigned count)
{
    add(program, (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)number, 0,
                                              (uint8_t)(2 * count + 2)));
    add_load(program, argument_at(index));
    for (unsigned i = 0; i < count; i++)
        refuse(program, (long)values[i], EPERM);
    add_answer(program, SECCOMP_RET_ALLOW);
}

static void add_starter(struct program *program)
{
    static const uint32_t families[] = {AF_UNIX, AF_INET, AF_INET6, AF_NETLINK};
    static const uint32_t typing[] = {TIOCSTI, TIOCLINUX};

#define NEVER(name) refuse(program, __NR_##name, EPERM);
#include "guard/syscalls.def"
    allow_values(program, __NR_socket, 0, families, COUNT_OF(families));
    refuse_values(program, __NR_ioctl, 1, typing, COUNT_OF(typing));
    allow_bits(program, __NR_clone, 0,
               CLONE_NEWNS | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC |
                   CLONE_NEWUTS | CLONE_NEWCGROUP,
               false);
    refuse(program, __NR_clone3, ENOSYS); /* its flags cannot be read here; clone stands in */
}

/* ------------------------------------------------------------------ entering */

static bool program_enter(const struct program *program)
{
    struct sock_fprog filter = {.len = program->count,
                                .filter = (struct sock_filter *)(uintptr_t)program->steps};

    return syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, 0, &filter) == 0;
}

bool syscalls_enter_starter(const struct guard_ids *ids)
{
    static struct program program;

    if (OWN_ARCHITECTURE == 0)
        return false;
    program.count = 0;
    add_head(&program);
    if (ids)
        add_ids(&program, ids);
    add_starter(&program);
    add_answer(&program, SECCOMP_RET_ALLOW);
    return program_enter(&program);
}

bool syscalls_enter_without_network(void)
{
    static const uint32_t families[] = {AF_UNIX};
    static struct program program;

    if (OWN_ARCHITECTURE == 0)
        return false;
    program.count = 0;
    add_head(&program);
    allow_values(&program, __NR_socket, 0, families, COUNT_OF(families));
    add_answer(&program, SECCOMP_RET_ALLOW);
    return program_enter(&program);
}

bool syscalls_enter(enum guard_role role)
{
    static struct program program;

    if (OWN_ARCHITECTURE == 0)
        return false;
    program.count = 0;
    add_head(&program);
    if (role == ROLE_WORKER)
        add_worker(&program);
    else
        add_keeper(&program);
    if (role == ROLE_WATCHER)
        add_watcher(&program);
    add_memory(&program);
    add_answer(&program, SECCOMP_RET_ERRNO | EPERM);
    return program_enter(&program);
}
