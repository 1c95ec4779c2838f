/* The turns. A list's number is its row (the sender) times the width plus its place in the row. */
#include "spool/fair.h"

uint16_t fair_flow(struct bytes user, struct bytes local, struct bytes domain,
                   struct bytes destination)
{
    size_t kept = 0;

    while (kept < local.count && local.at[kept] != '+' && local.at[kept] != '-' &&
           local.at[kept] != '=')
        kept++;
    const uint64_t sender = user.count > 0 ? bytes_hash_nocase(user)
                                           : bytes_hash_nocase(bytes_slice(local, 0, kept)) * 31 +
                                                 bytes_hash_nocase(domain);
    const uint64_t to = bytes_hash_nocase(destination);
    return (uint16_t)((sender >> 32) % FAIR_WIDTH * FAIR_WIDTH + (to >> 32) % FAIR_WIDTH);
}

void fair_open(struct fair *fair)
{
    *fair = (struct fair){0};
    for (unsigned row = 0; row < FAIR_WIDTH; row++)
        for (unsigned list = 0; list < FAIR_WIDTH; list++) {
            struct link *const head = &fair->rows[row].lists[list];
            head->next = head->previous = head;
        }
}

void fair_add(struct fair *fair, uint16_t flow, struct link *link)
{
    struct fair_row *const row = &fair->rows[flow / FAIR_WIDTH];
    struct link *const head = &row->lists[flow % FAIR_WIDTH];

    link->previous = head->previous;
    link->next = head;
    head->previous->next = link;
    head->previous = link;
    row->used |= UINT64_C(1) << flow % FAIR_WIDTH;
    fair->used |= UINT64_C(1) << flow / FAIR_WIDTH;
    row->count++;
    fair->count++;
}

void fair_remove(struct fair *fair, uint16_t flow, struct link *link)
{
    struct fair_row *const row = &fair->rows[flow / FAIR_WIDTH];
    const struct link *const head = &row->lists[flow % FAIR_WIDTH];

    link->previous->next = link->next;
    link->next->previous = link->previous;
    link->next = link->previous = NULL;
    row->count--;
    fair->count--;
    if (head->next == head)
        row->used &= ~(UINT64_C(1) << flow % FAIR_WIDTH);
    if (row->used == 0)
        fair->used &= ~(UINT64_C(1) << flow / FAIR_WIDTH);
}

/* The first set bit at or behind `turn`, going round. */
static unsigned next_of(uint64_t used, unsigned turn)
{
    const uint64_t behind = turn < FAIR_WIDTH ? used >> turn << turn : 0;

    return (unsigned)__builtin_ctzll(behind ? behind : used);
}

struct link *fair_next(struct fair *fair)
{
    if (!fair->used)
        return NULL;
    const unsigned sender = next_of(fair->used, fair->turn);
    struct fair_row *const row = &fair->rows[sender];
    const unsigned list = next_of(row->used, row->turn);
    fair->turn = sender + 1;
    row->turn = list + 1;
    return row->lists[list].next;
}

struct link *fair_last_of_most(struct fair *fair)
{
    struct fair_row *most = NULL;

    for (unsigned i = 0; i < FAIR_WIDTH; i++)
        if (fair->rows[i].count > 0 && (!most || fair->rows[i].count > most->count))
            most = &fair->rows[i];
    if (!most)
        return NULL;
    return most->lists[next_of(most->used, most->turn)].previous;
}

uint32_t fair_count_of_sender(const struct fair *fair, uint16_t flow)
{
    return fair->rows[flow / FAIR_WIDTH].count;
}
