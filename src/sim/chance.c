/*
 * Chance and trace: one generator for everything that is drawn (xoshiro256**, seeded by
 * splitmix64), and one running hash over everything that happens. Neither ever sees an address or a
 * real clock.
 */
#include "sim/inside.h"

#include <string.h>
#include <xxhash.h>

static uint64_t splitmix(uint64_t *state)
{
    uint64_t z = (*state += UINT64_C(0x9e3779b97f4a7c15));

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static uint64_t rotate(uint64_t value, unsigned by)
{
    return (value << by) | (value >> (64 - by));
}

void chance_open(uint64_t seed)
{
    uint64_t state = seed;

    for (size_t i = 0; i < COUNT_OF(sim_world.chance); i++)
        sim_world.chance[i] = splitmix(&state);
    sim_world.trace = splitmix(&state);
}

uint64_t chance_next(void)
{
    uint64_t *s = sim_world.chance;
    const uint64_t result = rotate(s[1] * 5, 7) * 9;
    const uint64_t t = s[1] << 17;

    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate(s[3], 45);
    return result;
}

/* The tiny bias of the remainder does not matter here. */
uint64_t sim_below(uint64_t limit)
{
    return limit ? chance_next() % limit : 0;
}

uint64_t chance_between(uint64_t least, uint64_t most)
{
    return least + sim_below(most - least + 1);
}

bool sim_chance(unsigned parts_per_million)
{
    return sim_below(1000000) < parts_per_million;
}

void random_fill(struct span into)
{
    while (into.count > 0) {
        const uint64_t drawn = chance_next();
        const size_t part = MIN_OF(into.count, sizeof drawn);

        memcpy(into.at, &drawn, part);
        into.at += part;
        into.count -= part;
    }
}

/* ------------------------------------------------------------------ trace */

static void mix(uint64_t value)
{
    sim_world.trace = (sim_world.trace ^ value) * UINT64_C(0x9e3779b97f4a7c15);
    sim_world.trace ^= sim_world.trace >> 29;
}

/* Most are a word or two; a page or a message takes a hash that is made for such. */
static void mix_bytes(struct bytes bytes)
{
    mix(bytes.count);
    if (bytes.count > 64) {
        mix(XXH3_64bits(bytes.at, bytes.count));
        return;
    }
    while (bytes.count > 0) {
        uint64_t word = 0;
        const size_t part = MIN_OF(bytes.count, sizeof word);

        memcpy(&word, bytes.at, part);
        mix(word);
        bytes = bytes_skip(bytes, part);
    }
}

void trace_bytes(const char *what, uint64_t number, struct bytes bytes)
{
    sim_world.trace_count++;
    mix(sim_world.now_us);
    mix_bytes(bytes_of_text(what));
    mix(number);
    mix_bytes(bytes);
    if (!sim_world.trace_print)
        return;
    fprintf(stderr, "%14llu %016llx %-10s %llu \"", (unsigned long long)sim_world.now_us,
            (unsigned long long)sim_world.trace, what, (unsigned long long)number);
    for (size_t i = 0; i < MIN_OF(bytes.count, (size_t)100); i++)
        fputc(ascii_is_print(bytes.at[i]) ? bytes.at[i] : '.', stderr);
    fprintf(stderr, "\"\n");
}

void trace_add(const char *what, const char *text, uint64_t number)
{
    trace_bytes(what, number, bytes_of_text(text));
}

void sim_note(const char *what, uint64_t value)
{
    trace_add("note", what, value);
}

uint64_t sim_trace_hash(void)
{
    return sim_world.trace;
}

uint64_t sim_trace_count(void)
{
    return sim_world.trace_count;
}

void sim_trace_print(bool print)
{
    sim_world.trace_print = print;
}
