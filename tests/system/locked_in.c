/*
 * What somebody can do who has taken over the worker: this program gives up what the worker gives
 * up, by the same code and the same configuration, and then tries. It prints one line a try: "ok",
 * or the error, and what was tried. It is no part of the server.
 *
 *     locked_in CONFIG KEY            as the worker
 *     locked_in CONFIG KEY keeper     as the keeper of keys
 *     locked_in CONFIG KEY free       as root, having given up nothing: shows that each try would
 *                                     succeed if nothing stood in its way
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "config/config.h"
#include "guard/guard.h"

static pid_t parent; /* of the process that tries */
static bool is_free;

static void say(const char *what, bool done)
{
    const char *error = done ? "ok" : strerrorname_np(errno);

    printf("%-14s %s\n", error ? error : "?", what);
    fflush(stdout);
}

static void try_open(const char *what, const char *path, int flags)
{
    const int descriptor = open(path, flags, 0600);

    say(what, descriptor >= 0);
    if (descriptor >= 0)
        close(descriptor);
}

static void try_connect(const char *what, uint16_t port)
{
    const struct sockaddr_in to = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const int made = socket(AF_INET, SOCK_STREAM, 0);
    const bool reached =
        made >= 0 &&
        (connect(made, (const struct sockaddr *)&to, sizeof to) == 0 || errno == ECONNREFUSED);

    say(what, reached); /* refused by the other host is reached */
    close(made);
}

static void try_bind(const char *what, uint16_t port)
{
    const struct sockaddr_in at = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    const int made = socket(AF_INET, SOCK_STREAM, 0);

    say(what, made >= 0 && bind(made, (const struct sockaddr *)&at, sizeof at) == 0);
    close(made);
}

static void try_call(const char *what, long result)
{
    say(what, result >= 0);
}

static void *thread_main(void *argument)
{
    return argument;
}

static void try_files(const struct config *config, const char *key)
{
    char path[1024];

    try_open("read /etc/shadow", "/etc/shadow", O_RDONLY);
    try_open("read the private key", key, O_RDONLY);
    try_open("read the configuration", config->file, O_RDONLY);
    try_open("list /", "/", O_RDONLY | O_DIRECTORY);
    try_open("list /root", "/root", O_RDONLY | O_DIRECTORY);
    try_open("make a file in /tmp", "/tmp/holdfast-escaped", O_WRONLY | O_CREAT);
    unlink("/tmp/holdfast-escaped");
    try_open("write /etc/passwd", "/etc/passwd", O_WRONLY);
    snprintf(path, sizeof path, "%s/tried", config->spool);
    try_open("make a file in the spool", path, O_WRONLY | O_CREAT);
    snprintf(path, sizeof path, "%s/link", config->spool);
    say("make a link in the spool to the key", link(key, path) == 0);
    snprintf(path, sizeof path, "/proc/%d/mem", (int)parent);
    try_open("open the parent's memory", path, O_RDWR);
    snprintf(path, sizeof path, "/proc/%d/environ", (int)parent);
    try_open("read the parent's environment", path, O_RDONLY);
}

/* Without locks the program would take this one's place. */
static bool starts_program(char *const *words)
{
    int status = 1;
    const pid_t child = fork();

    if (child == 0)
        _exit(execve("/bin/sh", words, NULL));
    return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

/* Whoever has done it has no rights outside any more. */
static bool unshares(void)
{
    int status = 1;
    const pid_t child = fork();

    if (child == 0)
        _exit(unshare(CLONE_NEWUSER) != 0);
    return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

static void try_processes(void)
{
    char word[8];
    const struct iovec here = {word, sizeof word},
                       there = {(void *)(uintptr_t)thread_main, sizeof word};
    char *const shell[] = {(char *)(uintptr_t) "sh", (char *)(uintptr_t) "-c",
                           (char *)(uintptr_t) ":", NULL};

    say("start a program", is_free ? starts_program(shell) : execve("/bin/sh", shell, NULL) == 0);
    const long child = syscall(__NR_clone, SIGCHLD, 0, 0, 0, 0);
    if (child == 0)
        _exit(0);
    say("start a process", child > 0);
    const bool traced = ptrace(PTRACE_ATTACH, parent, 0, 0) == 0;
    say("ptrace the parent", traced);
    if (traced && waitpid(parent, NULL, 0) == parent)
        ptrace(PTRACE_DETACH, parent, 0, 0);
    try_call("read the parent's memory", process_vm_readv(parent, &here, 1, &there, 1, 0));
    say("signal the parent", kill(parent, SIGUSR1) == 0);
    say("signal the parent's thread", syscall(__NR_tgkill, parent, parent, SIGUSR1) == 0);
    say("become root", setuid(0) == 0 && geteuid() == 0);
}

static void try_kernel(const struct config *config)
{
    const struct rlimit more = {RLIM_INFINITY, RLIM_INFINITY};
    char attributes[128] = {0};

    try_call("load a module", syscall(__NR_finit_module, 0, "", 0));
    try_call("mount", mount("none", config->spool, "tmpfs", 0, NULL));
    say("a new user namespace", is_free ? unshares() : unshare(CLONE_NEWUSER) == 0);
    try_call("bpf", syscall(__NR_bpf, 0, attributes, sizeof attributes));
    try_call("perf events", syscall(__NR_perf_event_open, attributes, 0, -1, -1, 0));
    try_call("io_uring", syscall(__NR_io_uring_setup, 1, attributes));
    try_call("userfaultfd", syscall(__NR_userfaultfd, 0));
    try_call("the keyring",
             syscall(__NR_keyctl, KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0));
    try_call("chroot", chroot("/"));
    try_call("put a letter into a terminal", ioctl(STDOUT_FILENO, TIOCSTI, "x"));
    try_call("raise a limit", setrlimit(RLIMIT_DATA, &more));
    try_call("dump core again", syscall(__NR_prctl, 4 /* PR_SET_DUMPABLE */, 1, 0, 0, 0));
}

static void try_memory(void)
{
    pthread_t thread;
    const size_t much = 64UL * 1024 * 1024 * 1024;
    void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    say("start a thread", pthread_create(&thread, NULL, thread_main, NULL) == 0);
    say("map memory to run",
        mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
    say("make memory run", mprotect(page, 4096, PROT_READ | PROT_EXEC) == 0);
    say("take 64 GiB", mmap(NULL, much, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) != MAP_FAILED);
}

static void try_network(void)
{
    struct sockaddr_un abstract = {.sun_family = AF_UNIX, .sun_path = "\0holdfast-outside"};
    const int local = socket(AF_UNIX, SOCK_STREAM, 0);

    try_connect("connect to port 25", 25);
    try_connect("connect to port 22", 22);
    try_connect("connect to port 6379", 6379);
    try_bind("serve port 2526", 2526);
    say("send raw packets", socket(AF_PACKET, SOCK_RAW, 0) >= 0);
    say("use the kernel's ciphers", socket(AF_ALG, SOCK_SEQPACKET, 0) >= 0);
    say("reach an abstract socket",
        connect(local, (const struct sockaddr *)&abstract, sizeof(sa_family_t) + 17) == 0);
}

/* The parent of him who is free: he signals it and stops it. What he mounts, only both of them see;
 * without that nothing is tried. */
static void stand_by(void)
{
    int status = 1;

    if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0) {
        perror("locked_in: a mount namespace of its own");
        _exit(2);
    }
    const pid_t child = fork();
    if (child == 0)
        return;
    signal(SIGUSR1, SIG_IGN);
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        continue;
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : 2);
}

static void try_all(const struct config *config, const char *key)
{
    try_files(config, key);
    try_processes();
    try_kernel(config);
    try_memory();
    try_network();
}

int main(int count, char **arguments)
{
    struct config_errors errors = {0};
    struct guard_report report = {0};
    char why[256] = "";

    is_free = count > 3 && strcmp(arguments[3], "free") == 0;
    if (is_free)
        stand_by();
    parent = getppid();
    struct config *config = count > 2 ? config_load(arguments[1], &errors) : NULL;
    if (!config || (!is_free && !guard_become(config->user, why, sizeof why))) {
        fprintf(stderr, "locked_in: %s %.*s\n", why, BYTES_PRINT(buffer_view(&errors.text)));
        return 2;
    }
    struct guard_plan *plan = guard_plan_of(config);
    const bool keeper = count > 3;
    const bool locked =
        plan && (is_free  ? true
                 : keeper ? guard_enter_keeper(why, sizeof why)
                          : guard_enter(plan, config->limits.memory, &report, why, sizeof why));
    if (!locked) {
        fprintf(stderr, "locked_in: %s\n", why);
        return 2;
    }
    printf("# landlock %d, seccomp %d\n", report.landlock, report.seccomp);
    try_all(config, arguments[2]);
    free(plan);
    config_free(config);
    return 0;
}
