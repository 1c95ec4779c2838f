/*
 * What somebody can do who has taken over the worker: this program gives up what the worker gives
 * up, by the same code and the same configuration, and then tries. It prints one line a try: "ok",
 * or the error, and what was tried. It is no part of the server.
 *
 *     locked_in CONFIG KEY            as the worker
 *     locked_in CONFIG KEY keeper     as the keeper of keys
 *     locked_in CONFIG KEY runner     as the runner of commands before it has read which one is
 * meant locked_in CONFIG KEY inside PID as what started it, a command of the configuration's; PID:
 * the parent locked_in CONFIG KEY free       as root, having given up nothing: shows that each try
 * would succeed if nothing stood in its way
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
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
#include "runner/inside.h"

enum { COMMANDS_USER = 1, OTHER_USER = 2 }; /* daemon and bin of Debian */

static pid_t parent; /* of the process that tries */

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

static bool moves_file(void)
{
    const int made = open("/tmp/holdfast-moved", O_WRONLY | O_CREAT, 0600);

    return made >= 0 && mkdir("/tmp/holdfast-folder", 0700) == 0 &&
           rename("/tmp/holdfast-moved", "/tmp/holdfast-folder/moved") == 0;
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
    say("move a file from folder to folder", moves_file());
    unlink("/tmp/holdfast-folder/moved");
    unlink("/tmp/holdfast-moved");
    rmdir("/tmp/holdfast-folder");
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

/* In a process of its own, if there may be one: who succeeds is another afterwards. */
static bool alone(bool (*try)(void))
{
    int status = 0;
    const pid_t child = fork();

    if (child < 0)
        return try();
    if (child == 0)
        _exit(try() ? 0 : errno);
    while (waitpid(child, &status, 0) < 0 && errno == EINTR)
        continue;
    errno = WIFEXITED(status) ? WEXITSTATUS(status) : ECHILD;
    return errno == 0;
}

static bool starts_program(void)
{
    char *const shell[] = {(char *)(uintptr_t) "sh", (char *)(uintptr_t) "-c",
                           (char *)(uintptr_t) ":", NULL};

    return execve("/bin/sh", shell, NULL) == 0;
}

static bool unshares(void)
{
    return unshare(CLONE_NEWUSER) == 0;
}

static bool becomes_root(void)
{
    return setresuid(0, 0, 0) == 0 && geteuid() == 0;
}

static bool becomes_other(void)
{
    return setresuid(OTHER_USER, OTHER_USER, OTHER_USER) == 0;
}

static bool becomes_commands_user(void)
{
    return setresuid(COMMANDS_USER, COMMANDS_USER, COMMANDS_USER) == 0;
}

static bool joins_group(void)
{
    const gid_t group = OTHER_USER;

    return setgroups(1, &group) == 0;
}

static void try_processes(void)
{
    char word[8];
    const struct iovec here = {word, sizeof word},
                       there = {(void *)(uintptr_t)thread_main, sizeof word};
    say("start a program", alone(starts_program));
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
    say("become root", alone(becomes_root));
    say("become the user of a command", alone(becomes_commands_user));
    say("become somebody else", alone(becomes_other));
    say("join a group", alone(joins_group));
}

static void try_kernel(const struct config *config)
{
    const struct rlimit more = {RLIM_INFINITY, RLIM_INFINITY};
    char attributes[128] = {0};

    try_call("load a module", syscall(__NR_finit_module, 0, "", 0));
    try_call("mount", mount("none", config->spool, "tmpfs", 0, NULL));
    say("a new user namespace", alone(unshares));
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

/* By the code that the process itself runs. */
static bool enter(const char *role, const struct config *config, const struct guard_plan *plan,
                  struct guard_report *report)
{
    struct runner_user users[4];
    const struct runner runner = {.config = config, .users = users};
    char why[256] = "";

    if (strcmp(role, "keeper") == 0)
        return guard_enter_keeper(why, sizeof why);
    if (strcmp(role, "worker") == 0)
        return guard_enter(plan, config->limits.memory, report, why, sizeof why);
    if (strcmp(role, "runner") != 0)
        return true;
    for (unsigned i = 0; i < config->pipe_count && i < COUNT_OF(users); i++)
        if (!runner_user_find(&config->pipes[i], &users[i], why, sizeof why))
            return false;
    return runner_keep_few_powers(&runner, why, sizeof why);
}

int main(int count, char **arguments)
{
    struct config_errors errors = {0};
    struct guard_report report = {0};
    char why[256] = "";

    const char *const role = count > 3 ? arguments[3] : "worker";
    const bool is_inside = strcmp(role, "inside") == 0, is_runner = strcmp(role, "runner") == 0;
    const bool is_free = strcmp(role, "free") == 0;

    if (is_free)
        stand_by();
    parent = count > 4 ? atoi(arguments[4]) : getppid();
    struct config *config = count > 2 ? config_load(arguments[1], &errors) : NULL;
    const bool stays = is_free || is_inside || is_runner;
    if (!config || (!stays && !guard_become(config->user, why, sizeof why))) {
        fprintf(stderr, "locked_in: %s %.*s\n", why, BYTES_PRINT(buffer_view(&errors.text)));
        return 2;
    }
    struct guard_plan *plan = guard_plan_of(config);
    if (!plan || !enter(role, config, plan, &report)) {
        fprintf(stderr, "locked_in: it did not work\n");
        return 2;
    }
    printf("# landlock %d, seccomp %d\n", report.landlock, report.seccomp);
    try_all(config, arguments[2]);
    free(plan);
    config_free(config);
    return 0;
}
