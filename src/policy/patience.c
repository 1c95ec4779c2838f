/*
 * patience: a table of fixed size in sets of a few rows; where a set is full, the row that was
 * longest not asked about makes room. What is pushed out starts anew: it is deferred longer, never
 * refused.
 */
#include "policy/authenticate.h"

enum { SETS = 4096, WAYS = 4 };
/* A sender that has not come back for this long starts anew. Above every usual retry interval. */
static const uint64_t FORGOTTEN_US = UINT64_C(24) * 3600 * US_PER_S;

struct patience_row {
    uint64_t key; /* 0: free */
    uint64_t first_us, last_us;
};

struct patience {
    uint64_t patience_us, secret;
    pthread_mutex_t lock; /* around the rows, never across a sleep */
    struct patience_row rows[SETS][WAYS];
};

struct patience *patience_open(uint64_t patience_us)
{
    struct patience *patience = calloc(1, sizeof *patience);

    if (!patience)
        return NULL;
    patience->patience_us = patience_us;
    patience->secret = random_u64();
    pthread_mutex_init(&patience->lock, NULL);
    return patience;
}

void patience_close(struct patience *patience)
{
    if (!patience)
        return;
    pthread_mutex_destroy(&patience->lock);
    free(patience);
}

static uint64_t mix(uint64_t a, uint64_t b)
{
    a = (a ^ b) * UINT64_C(0x9e3779b97f4a7c15);
    return a ^ (a >> 29);
}

/* Senders try again from neighbouring addresses, so the network stands for the client. */
uint64_t patience_key(const struct patience *patience, const struct ip_address *client,
                      struct address from, struct address to)
{
    const size_t network = client->family == ENDPOINT_IPV4 ? 3 : 8;
    uint64_t key = patience->secret;

    for (size_t i = 0; i < network; i++)
        key = mix(key, client->octets[i]);
    key = mix(key, bytes_hash_nocase(from.local));
    key = mix(key, bytes_hash_nocase(from.domain));
    key = mix(key, bytes_hash_nocase(to.local));
    key = mix(key, bytes_hash_nocase(to.domain));
    return key ? key : 1;
}

static struct patience_row *find(struct patience *patience, uint64_t key)
{
    struct patience_row *set = patience->rows[key % SETS];

    for (int i = 0; i < WAYS; i++)
        if (set[i].key == key)
            return &set[i];
    return NULL;
}

static struct patience_row *make(struct patience *patience, uint64_t key, uint64_t now_us)
{
    struct patience_row *set = patience->rows[key % SETS];
    struct patience_row *oldest = &set[0];

    for (int i = 1; i < WAYS; i++)
        if (set[i].last_us < oldest->last_us)
            oldest = &set[i];
    *oldest = (struct patience_row){key, now_us, now_us};
    return oldest;
}

bool patience_holds(struct patience *patience, uint64_t key, uint64_t now_us)
{
    pthread_mutex_lock(&patience->lock);
    struct patience_row *row = find(patience, key);

    if (!row)
        row = make(patience, key, now_us);
    else if (now_us - row->last_us > MAX_OF(FORGOTTEN_US, patience->patience_us))
        row->first_us = now_us;
    row->last_us = now_us;
    const bool holds = now_us - row->first_us < patience->patience_us;
    pthread_mutex_unlock(&patience->lock);
    return holds;
}

void patience_forget(struct patience *patience, uint64_t key)
{
    pthread_mutex_lock(&patience->lock);
    struct patience_row *row = find(patience, key);

    if (row)
        *row = (struct patience_row){0};
    pthread_mutex_unlock(&patience->lock);
}
