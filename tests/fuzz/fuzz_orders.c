/* The file of an operator's standing orders, damaged: bad lines are passed over, and what was read
 * is written as something that reads the same. */
#include "schedule/orders.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void write_all(const struct schedule *schedule, struct buffer *text)
{
    for (unsigned i = 0; i < ORDER_BUCKETS; i++)
        for (const struct order *order = schedule->orders[i]; order; order = order->next)
            order_write(text, order);
}

static void reread(struct bytes text, struct buffer *into)
{
    static struct schedule schedule;
    static const struct config config = {.spool = "spool"};

    schedule = (struct schedule){.config = &config};
    orders_read(&schedule, text);
    INVARIANT(schedule.order_count <= ORDERS_MAX);
    write_all(&schedule, into);
    orders_free(&schedule);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    CLEANUP(buffer_free)
    struct buffer first = BUFFER_WITH_LIMIT(8 * MIB), second = BUFFER_WITH_LIMIT(8 * MIB),
                  third = BUFFER_WITH_LIMIT(8 * MIB);

    observe_configure(LOG_NONE, LOG_ERROR);
    reread(bytes_of(data, MIN_OF(size, (size_t)65536)), &first);
    reread(buffer_view(&first), &second);
    reread(buffer_view(&second), &third);
    INVARIANT(first.count == second.count); /* a bucket's order turns round each time */
    INVARIANT(bytes_equal(buffer_view(&first), buffer_view(&third)));
    return 0;
}
