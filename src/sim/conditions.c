/* The weather of the network and the faults that the scenario ordered. */
#include "sim/network.h"

#include <string.h>

enum { NET_FAULTS_MOST = 64 };

static struct {
    struct {
        struct sim_net_fault fault;
        struct endpoint at;
        bool used, any;
        uint64_t met, struck;
    } faults[NET_FAULTS_MOST];
    struct sim_net_weather weather;
    bool weather_set;
    uint64_t struck;
} net;

struct sim_net_weather *weather(void)
{
    if (!net.weather_set) {
        net.weather = (struct sim_net_weather){.latency_us = 100,
                                               .jitter_us = 200,
                                               .loss_delay_us = 200 * US_PER_MS,
                                               .buffer_bytes = 64 * KIB,
                                               .fragment = true};
        net.weather_set = true;
    }
    return &net.weather;
}

void sim_net_weather(const struct sim_net_weather *wanted)
{
    *weather() = *wanted;
    if (net.weather.buffer_bytes == 0)
        net.weather.buffer_bytes = 64 * KIB;
    if (net.weather.loss_delay_us == 0)
        net.weather.loss_delay_us = 200 * US_PER_MS;
}

uint64_t draw_latency_us(void)
{
    return weather()->latency_us + sim_below(weather()->jitter_us + 1);
}

int sim_net_fault_add(const struct sim_net_fault *fault)
{
    for (int slot = 0; slot < NET_FAULTS_MOST; slot++)
        if (!net.faults[slot].used) {
            memset(&net.faults[slot], 0, sizeof net.faults[slot]);
            net.faults[slot].used = true;
            net.faults[slot].fault = *fault;
            net.faults[slot].any = fault->at == NULL;
            if (fault->at)
                net.faults[slot].at = *fault->at;
            return slot;
        }
    return -1;
}

uint64_t sim_net_struck(void)
{
    return net.struck;
}

void sim_net_fault_end(int slot)
{
    if (slot >= 0 && slot < NET_FAULTS_MOST)
        net.faults[slot].used = false;
}

void sim_net_fault_clear(void)
{
    memset(net.faults, 0, sizeof net.faults);
}

void network_forget(void)
{
    network_close();
    connections_forget();
    datagrams_forget();
    memset(&net, 0, sizeof net);
}

/* A wanted address without octets is any address, port 0 any port. */
bool endpoint_matches(const struct endpoint *wanted, const struct endpoint *got)
{
    static const uint8_t zero[16];

    if (wanted->family != got->family)
        return false;
    if (wanted->family == ENDPOINT_UNIX)
        return strcmp(wanted->path, got->path) == 0;
    if (wanted->port != 0 && wanted->port != got->port)
        return false;
    return memcmp(wanted->ip.octets, zero, ip_bytes(&wanted->ip)) == 0 ||
           ip_equal(&wanted->ip, &got->ip);
}

static bool strikes(size_t slot, const struct endpoint *to)
{
    const struct sim_net_fault *fault = &net.faults[slot].fault;

    if (!net.faults[slot].used)
        return false;
    if (!net.faults[slot].any && !endpoint_matches(&net.faults[slot].at, to))
        return false;
    net.faults[slot].met++;
    if (fault->connection != 0 && net.faults[slot].met != fault->connection)
        return false;
    if (fault->times != 0 && net.faults[slot].struck >= fault->times)
        return false;
    if (fault->chance_ppm != 0 && !sim_chance(fault->chance_ppm))
        return false;
    net.faults[slot].struck++;
    net.struck++;
    return true;
}

static void arm(struct connection *connection, const struct sim_net_fault *fault)
{
    if (fault->kind == SIM_NET_SLOW) {
        connection->slow_us += fault->delay_us;
        return;
    }
    connection->armed[fault->way] =
        (struct armed){.kind = fault->kind,
                       .after_bytes = fault->after_bytes + sim_below(fault->after_random),
                       .at_text = fault->at_text};
}

/* Every fault that strikes counts, the first that forbids the connection wins. */
enum sim_net_kind conditions_at_dial(const struct endpoint *to, struct connection *connection)
{
    enum sim_net_kind verdict = 0;

    for (size_t slot = 0; slot < NET_FAULTS_MOST; slot++) {
        if (!strikes(slot, to))
            continue;
        const struct sim_net_fault *fault = &net.faults[slot].fault;

        if (fault->kind != SIM_NET_REFUSE && fault->kind != SIM_NET_BLACK_HOLE)
            arm(connection, fault);
        else if (verdict == 0)
            verdict = fault->kind;
    }
    return verdict;
}
