/*
 * Faults, one after the other, several at a time: each strikes for a while and is then mended. They
 * are drawn from the world's own chance, so they follow from the seed.
 */
#include "server.h"

#include <errno.h>
#include <signal.h>

enum { TROUBLES_AT_ONCE = 2 };

struct place_of_net {
    const char *name, *address, *reply;
};
static const struct place_of_net nets[] = {
    {"our port", "192.0.2.1:25", "250 2.0.0 Accepted"},
    {"our port", "192.0.2.1:25", "250 2.0.0 Accepted"},
    {"mx1.far", "203.0.113.1:25", "250 2.0.0 Taken"},
    {"mx2", "203.0.113.2:25", "250 2.0.0 Taken"},
    {"mx1.far by IPv6", FAR6_AT, "250 2.0.0 Taken"},
    {"mx2 by IPv6", MX26_AT, "250 2.0.0 Taken"},
    {"mx.dane", DANE_AT, "250 2.0.0 Taken"},
    {"mx.sts", STS_AT, "250 2.0.0 Taken"},
    {"the static hop", "203.0.113.3:2525", "250 2.0.0 Taken"},
    {"clamd", CLAMD_AT, "stream: OK"},
    {"the milter", MILTER_AT, NULL},
    {"spamd", SPAMD_AT, "EX_OK"},
    {"the directory", DIRECTORY_AT, "found"},
    {"the port of submission", "192.0.2.1:587", "235 "},
    {"the port of LMTP", "192.0.2.1:24", "250 2.0.0 Accepted"},
};

static bool ended;

/* True: the trouble went on for its while; false: the world ends. */
static bool lasts(uint64_t most_s)
{
    return fiber_sleep_until(deadline_in((1 + sim_below(most_s)) * US_PER_S)) == IO_OK && !ended;
}

/* ------------------------------------------------------------------ disk */

static void disk_fails(void)
{
    static const int errors[] = {EIO, EIO, ENOSPC, EACCES, EROFS, EDQUOT};
    static const unsigned operations[] = {SIM_DISK_WRITE, SIM_DISK_SYNC,       SIM_DISK_READ,
                                          SIM_DISK_NAMES, SIM_DISK_SYNC_NAMES, SIM_DISK_OPEN,
                                          SIM_DISK_ALL};
    static const char *const paths[] = {NULL, "/var/spool", "/var/mail", "/etc/holdfast",
                                        "/var/history"};
    struct sim_disk_fault fault = {.on = operations[sim_below(COUNT_OF(operations))],
                                   .path_part = paths[sim_below(COUNT_OF(paths))],
                                   .error = errors[sim_below(COUNT_OF(errors))],
                                   .skip = sim_below(10),
                                   .times = sim_chance(400000) ? 1 + sim_below(3) : 0,
                                   .chance_ppm = sim_chance(500000) ? 200000 : 0};

    /* A directory that may not be read is no passing fault: who may write there but not read made
     * it so. */
    if (fault.error == EACCES && fault.on & SIM_DISK_SYNC_NAMES)
        fault.on = SIM_DISK_ALL & ~(unsigned)SIM_DISK_SYNC_NAMES;
    book.forgetful = true;
    tale_add(0, -1, "fault: disk: error %d on operations %u of %s, %llu times, %u ppm", fault.error,
             fault.on, fault.path_part ? fault.path_part : "anything",
             (unsigned long long)fault.times, fault.chance_ppm);
    const int slot = sim_disk_fault_add(&fault);
    (void)lasts(900);
    sim_disk_fault_end(slot);
}

static void disk_stalls(void)
{
    const struct sim_disk_fault fault = {.on = sim_chance(500000) ? SIM_DISK_SYNC : SIM_DISK_ALL,
                                         .times = 1 + sim_below(3),
                                         .stall_us = sim_below(90 * US_PER_S)};

    tale_add(0, -1, "fault: disk: %llu stalls of %llu ms", (unsigned long long)fault.times,
             (unsigned long long)(fault.stall_us / US_PER_MS));
    book.stalled = book.forgetful = true;
    const int slot = sim_disk_fault_add(&fault);
    (void)lasts(600);
    sim_disk_fault_end(slot);
}

static void disk_fills(void)
{
    book.forgetful = true;
    tale_add(0, -1, "fault: disk: full");
    sim_disk_budget(sim_chance(700000) ? 64 * KIB : 0, sim_chance(400000) ? 8 : 0);
    (void)lasts(900);
    sim_disk_budget(0, 0);
    tale_add(0, -1, "the disk has room again");
}

/* The file changes, so it has to be read again, and then it cannot be. */
static void users_fail(void)
{
    const struct sim_disk_fault fault = {.on = sim_chance(500000) ? SIM_DISK_READ : SIM_DISK_ALL,
                                         .path_part = "/etc/holdfast",
                                         .error = sim_chance(500000) ? EIO : EACCES,
                                         .chance_ppm = sim_chance(500000) ? 500000 : 0};

    tale_add(0, -1, "fault: the directory cannot be read");
    sim_disk_put("/etc/holdfast/users", sim_chance(500000)
                                            ? BYTES_LITERAL("bob\nann\nalice\n")
                                            : BYTES_LITERAL("# users\nalice\nann\nbob\n"));
    const int slot = sim_disk_fault_add(&fault);
    (void)lasts(1200);
    sim_disk_fault_end(slot);
}

/* ------------------------------------------------------------------ network */

static void network_fails(void)
{
    static const char *const names[] = {[SIM_NET_REFUSE] = "refuses",
                                        [SIM_NET_BLACK_HOLE] = "is a black hole",
                                        [SIM_NET_RESET] = "resets",
                                        [SIM_NET_HALF_OPEN] = "falls silent",
                                        [SIM_NET_SLOW] = "is slow"};
    const struct place_of_net *net = &nets[sim_below(COUNT_OF(nets))];
    struct sim_net_fault fault = {.kind = (enum sim_net_kind)(1 + sim_below(SIM_NET_SLOW)),
                                  .chance_ppm = sim_chance(500000) ? 500000 : 0,
                                  .times = sim_chance(500000) ? 1 + sim_below(3) : 0,
                                  .way = sim_chance(500000) ? SIM_NET_TO_SERVER : SIM_NET_TO_CLIENT,
                                  .after_random = sim_chance(500000) ? 400 : 20000,
                                  .delay_us = sim_below(3 * US_PER_S)};
    struct endpoint at;

    CHECK(endpoint_parse(bytes_of_text(net->address), &at), "an address");
    fault.at = &at;
    if (sim_chance(300000)) {
        fault.way = SIM_NET_TO_CLIENT;
        fault.at_text = net->reply;
    }
    tale_add(0, -1, "fault: network: %s %s, %s, %llu times, %u ppm%s", net->name, names[fault.kind],
             fault.way == SIM_NET_TO_SERVER ? "to the server" : "to the client",
             (unsigned long long)fault.times, fault.chance_ppm,
             fault.at_text ? ", at the reply" : "");
    const int slot = sim_net_fault_add(&fault);
    (void)lasts(1200);
    sim_net_fault_end(slot);
}

/* ------------------------------------------------------------------ names, filters, next hops */

static void names_fail(void)
{
    static const char *const names[] = {NULL,          "far.example",  "mx1.far.example",
                                        "mx2.example", "home.example", "no.example"};
    static const char *const demands[] = {"_25._tcp.mx.dane.example", "dane.example",
                                          "mx.dane.example", "_mta-sts.sts.example",
                                          STS_POLICY_HOST};
    static const enum sim_zone_fault faults[] = {SIM_ZONE_TIMEOUT, SIM_ZONE_SERVFAIL,
                                                 SIM_ZONE_BOGUS};
    const char *name = setting.tls && sim_chance(500000) ? demands[sim_below(COUNT_OF(demands))]
                                                         : names[sim_below(COUNT_OF(names))];
    const enum sim_zone_fault fault = faults[sim_below(COUNT_OF(faults))];

    tale_add(0, -1, "fault: DNS: %s of %s", fault == SIM_ZONE_TIMEOUT ? "time-outs" : "failures",
             name ? name : "every name");
    sim_zone_fault(name, fault, sim_chance(500000) ? 500000 : 0);
    (void)lasts(1200);
    sim_zone_fault(NULL, SIM_ZONE_FINE, 0);
}

/* A new policy is announced and cannot be had, in each of the ways there are. */
static void policy_fails(void)
{
    static const struct sim_document bad[] = {
        {.status = 0},
        {.status = 500, .body = "out of order"},
        {.status = 200, .body = "version: STSv1\r\nmode: enf", .spoilt = true},
        {.status = 200, .body = "", .untrusted = true},
        {.status = 200, .body = "", .hangs = true}};
    const unsigned id = 2 + (unsigned)sim_below(1000);
    const bool announced = sim_chance(700000);

    tale_add(0, -1, "fault: the MTA-STS policy cannot be had%s", announced ? ", of a new id" : "");
    book.faults_struck++;
    if (announced)
        furnish_policy(id);
    sim_document_put(STS_POLICY_HOST, &bad[sim_below(COUNT_OF(bad))]);
    (void)lasts(5000);
    furnish_policy(id + 1);
}

static void peer_fails(enum peer peer, unsigned often_ppm, unsigned seldom_ppm, uint64_t most_s)
{
    static const char *const names[PEER_KINDS] = {"next hops", "clamd", "the milter", "spamd",
                                                  "the directory"};

    tale_add(0, -1, "fault: %s: misbehaviour from now on", names[peer]);
    peers_misbehave(peer, sim_chance(500000) ? often_ppm : seldom_ppm);
    (void)lasts(most_s);
    peers_misbehave(peer, 0);
}

static void clamd_fails(void)
{
    peer_fails(PEER_CLAMD, 1000000, 300000, 1200);
}

static void hops_fail(void)
{
    peer_fails(PEER_HOPS, 400000, 100000, 2400);
}

/* Of those that not every server has. */
static void others_fail(void)
{
    if (setting.tls && sim_chance(300000))
        policy_fails();
    else if (setting.milter && sim_chance(500000))
        peer_fails(PEER_MILTER, 400000, 50000, 1200);
    else if (setting.corp && sim_chance(600000))
        peer_fails(PEER_DIRECTORY, 1000000, 300000, 1200);
    else if (setting.spamd)
        peer_fails(PEER_SPAMD, 1000000, 300000, 1200);
}

/* ------------------------------------------------------------------ the machine */

static void clock_jumps(void)
{
    const bool years = sim_chance(400000);
    const uint64_t by_us =
        years ? (uint64_t)10 * 365 * 24 * 3600 * US_PER_S : sim_below(3 * 3600) * US_PER_S;
    const bool back = sim_chance(500000);

    tale_add(0, -1, "fault: the clock jumps by %s%llu s", back ? "-" : "+",
             (unsigned long long)(by_us / US_PER_S));
    book.faults_struck++;
    book.forgetful = true;
    book.set_back_us += back && !years ? by_us : 0;
    book.years_back |= back && years;
    sim_wall_jump(back ? -(int64_t)by_us : (int64_t)by_us);
}

static void machine_dies(void)
{
    const enum sim_crash_kind kind = sim_chance(400000) ? SIM_KILL : SIM_POWER_CUT;

    tale_add(0, -1, "fault: %s soon", kind == SIM_KILL ? "kill -9" : "power cut");
    sim_crash_at_step(sim_disk_steps() + 1 + sim_below(sim_chance(500000) ? 30 : 300), kind);
}

static void service_stops(void)
{
    tale_add(0, -1, "SIGTERM");
    sim_signal(SIGTERM);
}

static void configuration_changes(void)
{
    sim_signal(SIGHUP);
}

static void trouble_main(void *argument)
{
    static void (*const troubles[])(void) = {
        disk_fails,           disk_fails,    disk_stalls, disk_fills,  network_fails, network_fails,
        names_fail,           clamd_fails,   hops_fail,   hops_fail,   clock_jumps,   machine_dies,
        machine_dies,         service_stops, users_fail,  others_fail, others_fail,   others_fail,
        configuration_changes};

    CHECK(argument == &book, "an argument of our own");
    while (lasts(600))
        troubles[sim_below(COUNT_OF(troubles))]();
}

void trouble_start(void)
{
    ended = false;
    if (sim_chance(300000)) {
        tale_add(0, -1, "fault: a crash while it starts");
        sim_crash_at_step(sim_disk_steps() + 1 + sim_below(200),
                          sim_chance(400000) ? SIM_KILL : SIM_POWER_CUT);
    }
    for (unsigned i = 0; i < TROUBLES_AT_ONCE; i++)
        CHECK(fiber_start("trouble", trouble_main, &book) != NULL, "a fiber");
}

void trouble_end(void)
{
    ended = true;
    peers_behave();
    sim_disk_fault_clear();
    sim_disk_budget(0, 0);
    sim_net_fault_clear();
    sim_zone_fault(NULL, SIM_ZONE_FINE, 0);
    if (setting.tls)
        furnish_policy(1);
    sim_crash_at_step(0, SIM_KILL);
}
