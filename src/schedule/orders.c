/*
 * Standing orders: suspended destinations, and mail that an operator sends by another next hop.
 * They are few; each change writes all of them into one small file beside the spool's, made durable
 * before the operator is answered.
 *
 * A suspension that is over is remembered for as long as mail of its time may live, since that mail
 * is younger by so much.
 */
#include "schedule/inside.h"

#include <errno.h>
#include <string.h>

#define ORDERS_FILE_MAX (8 * MIB)
#define LOAD_TRIES 30
#define TIDY_PAUSE_US (10 * US_PER_S)
#define FORGET_AFTER_US (30 * 86400 * (int64_t)US_PER_S)

static struct order **bucket_of(const struct schedule *schedule, struct bytes what)
{
    const struct order *const *bucket =
        (const struct order *const *)&schedule->orders[bytes_hash_nocase(what) % ORDER_BUCKETS];
    return (struct order **)(uintptr_t)bucket;
}

static struct order *order_find(const struct schedule *schedule, bool routes, struct bytes what)
{
    for (struct order *order = *bucket_of(schedule, what); order; order = order->next)
        if (order->routes == routes && order->until_wall_us == 0 &&
            bytes_equal_text_nocase(what, order->what))
            return order;
    return NULL;
}

static struct order *order_add(struct schedule *schedule, bool routes, const char *what,
                               const char *who)
{
    struct order *order = schedule->order_count < ORDERS_MAX ? calloc(1, sizeof(*order)) : NULL;
    struct order **bucket = bucket_of(schedule, bytes_of_text(what));

    if (!order)
        return NULL;
    order->routes = routes;
    snprintf(order->what, sizeof(order->what), "%s", what);
    snprintf(order->who, sizeof(order->who), "%s", who);
    order->next = *bucket;
    *bucket = order;
    schedule->order_count++;
    return order;
}

/* Out of its bucket; freed with the schedule only, as a place may go by its `via`. */
static void order_retire(struct schedule *schedule, struct order *order)
{
    struct order **at = bucket_of(schedule, bytes_of_text(order->what));

    while (*at != order)
        at = &(*at)->next;
    *at = order->next;
    order->next = schedule->retired_orders;
    schedule->retired_orders = order;
    schedule->order_count--;
}

void orders_free(struct schedule *schedule)
{
    for (unsigned i = 0; i < ORDER_BUCKETS; i++)
        while (schedule->orders[i])
            order_retire(schedule, schedule->orders[i]);
    while (schedule->retired_orders) {
        struct order *order = schedule->retired_orders;
        schedule->retired_orders = order->next;
        free(order);
    }
}

/* ------------------------------------------------------------------ asking */

const struct order *order_that_suspends(const struct schedule *schedule, const char *key,
                                        struct bytes domain)
{
    if (schedule->order_count == 0)
        return NULL;
    const struct order *order = order_find(schedule, false, domain);
    return order ? order : order_find(schedule, false, bytes_of_text(key));
}

const struct order *order_that_routes(const struct schedule *schedule, uint64_t message,
                                      struct bytes domain)
{
    char id[ID_TEXT_MAX + 1] = "#";

    if (schedule->order_count == 0)
        return NULL;
    id_print(message, id + 1, sizeof(id) - 1);
    const struct order *order = order_find(schedule, true, bytes_of_text(id));
    return order ? order : order_find(schedule, true, domain);
}

static int64_t suspended_us(const struct schedule *schedule, struct bytes what, int64_t from,
                            int64_t now)
{
    int64_t sum = 0;

    for (const struct order *order = *bucket_of(schedule, what); order; order = order->next) {
        if (order->routes || !bytes_equal_text_nocase(what, order->what))
            continue;
        const int64_t end = order->until_wall_us ? order->until_wall_us : now;
        const int64_t begin = MAX_OF(order->since_wall_us, from);
        sum += MAX_OF(MIN_OF(end, now) - begin, (int64_t)0);
    }
    return sum;
}

int64_t order_accepted_wall_us(const struct place *place, const struct queued_message *message,
                               uint32_t recipient)
{
    const struct schedule *schedule = place->schedule;
    const int64_t accepted = message->envelope.accepted_wall_us;
    const struct bytes domain = message->envelope.recipients[recipient].address.domain;
    const int64_t now = clock_wall_us();

    if (schedule->order_count == 0)
        return accepted;
    return accepted + MAX_OF(suspended_us(schedule, domain, accepted, now),
                             suspended_us(schedule, bytes_of_text(place->to.key), accepted, now));
}

/* ------------------------------------------------------------------ the file */

static void order_write(struct buffer *text, const struct order *order)
{
    if (order->routes)
        buffer_print(text, "route\t%s\t%s\t%s\n", order->what, order->via_text, order->who);
    else
        buffer_print(text, "suspend\t%s\t%lld\t%lld\t%s\n", order->what,
                     (long long)order->since_wall_us, (long long)order->until_wall_us, order->who);
}

static struct io_result file_replace(const char *directory, struct bytes text)
{
    CLEANUP(file_close_ptr) struct file *file = NULL;
    char path[1024], made[1024];

    snprintf(path, sizeof(path), "%s/orders", directory);
    snprintf(made, sizeof(made), "%s/orders.new", directory);
    struct io_result result = file_open(made, FILE_WRITE | FILE_CREATE, &file);
    if (result.status == IO_OK)
        result = file_truncate(file, 0);
    if (result.status == IO_OK && text.count > 0)
        result = file_write_at(file, &text, 1, 0);
    if (result.status == IO_OK)
        result = file_sync(file);
    if (result.status == IO_OK)
        result = disk_rename(made, path);
    return result.status == IO_OK ? disk_sync_directory(directory) : result;
}

/* One after the other; each writes what holds when it begins. Sleeps. */
static bool orders_save(struct schedule *schedule)
{
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(ORDERS_FILE_MAX);
    const bool masked = fiber_mask_cancel(true);

    while (schedule->orders_saving)
        if (fiber_sleep_until(deadline_in(2 * US_PER_MS)) != IO_OK)
            break;
    schedule->orders_saving = true;
    for (unsigned i = 0; i < ORDER_BUCKETS; i++)
        for (const struct order *order = schedule->orders[i]; order; order = order->next)
            order_write(&text, order);
    const struct io_result saved =
        text.failed ? io_failed(0) : file_replace(schedule->config->spool, buffer_view(&text));
    schedule->orders_saving = false;
    fiber_mask_cancel(masked);
    if (saved.status != IO_OK)
        observe_note(LOG_ERROR, "schedule", "%s/orders: %s", schedule->config->spool,
                     io_result_text(saved));
    return saved.status == IO_OK;
}

static bool time_read(struct bytes text, int64_t *wall_us)
{
    uint64_t value = 0;

    if (!bytes_to_u64(text, &value) || value > INT64_MAX)
        return false;
    *wall_us = (int64_t)value;
    return true;
}

static bool via_set(struct order *order, struct bytes via)
{
    if (via.count >= sizeof(order->via_text))
        return false;
    snprintf(order->via_text, sizeof(order->via_text), "%.*s", BYTES_PRINT(via));
    return config_parse_next_hop(bytes_of_text(order->via_text), &order->via);
}

static bool order_read(struct schedule *schedule, struct bytes line)
{
    struct bytes kind, what, rest = bytes_cut(line, '\t', &kind), part;
    char name[320];

    rest = bytes_cut(rest, '\t', &what);
    const bool routes = bytes_equal_text(kind, "route");
    if ((!routes && !bytes_equal_text(kind, "suspend")) || what.count == 0)
        return false;
    /* Cut short, it would be an order about somebody else. */
    if (what.count >= sizeof(name) || bytes_find_byte(line, 0) < line.count)
        return false;
    snprintf(name, sizeof(name), "%.*s", BYTES_PRINT(what));
    struct order *order = order_add(schedule, routes, name, "");
    if (!order)
        return false;
    rest = bytes_cut(rest, '\t', &part);
    bool good = routes ? via_set(order, part) : time_read(part, &order->since_wall_us);
    if (!routes) {
        rest = bytes_cut(rest, '\t', &part);
        good = good && time_read(part, &order->until_wall_us);
    }
    snprintf(order->who, sizeof(order->who), "%.*s", BYTES_PRINT(rest));
    const bool over =
        order->until_wall_us && order->until_wall_us < clock_wall_us() - FORGET_AFTER_US;
    if (!good || over)
        order_retire(schedule, order);
    return good;
}

static void orders_read(struct schedule *schedule, struct bytes text)
{
    unsigned number = 0;

    while (text.count > 0) {
        struct bytes line;
        text = bytes_cut(text, '\n', &line);
        number++;
        if (line.count > 0 && !order_read(schedule, line))
            observe_note(LOG_ERROR, "schedule", "%s/orders:%u: not understood: %.*s",
                         schedule->config->spool, number, BYTES_PRINT(line));
    }
}

static struct io_result file_load(const char *directory, struct buffer *text)
{
    CLEANUP(file_close_ptr) struct file *file = NULL;
    struct file_facts facts = {0};
    char path[1024];

    snprintf(path, sizeof(path), "%s/orders", directory);
    struct io_result result = disk_facts(path, &facts);
    if (result.status != IO_OK)
        return result.error == ENOENT ? io_ok(0) : result;
    result = file_open(path, FILE_READ, &file);
    uint8_t *at = facts.size_bytes ? buffer_reserve(text, (size_t)facts.size_bytes) : NULL;
    if (result.status != IO_OK || !at)
        return result;
    result = file_read_at(file, (struct span){at, (size_t)facts.size_bytes}, 0);
    if (result.status == IO_OK)
        buffer_claim(text, result.count);
    return result;
}

/* Nothing is tried before it is known what must not be; a disk that does not give the file stops
 * delivery no longer than a while, as it would otherwise stop all of it. */
void orders_load(struct schedule *schedule)
{
    for (unsigned tries = 0; tries < LOAD_TRIES && !schedule->stopping; tries++) {
        CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(ORDERS_FILE_MAX);
        const struct io_result loaded = file_load(schedule->config->spool, &text);
        if (loaded.status == IO_OK) {
            orders_read(schedule, buffer_view(&text));
            return;
        }
        observe_note(LOG_ERROR, "schedule", "%s/orders: %s: suspensions are not known",
                     schedule->config->spool, io_result_text(loaded));
        if (fiber_sleep_until(deadline_in(US_PER_S)) != IO_OK)
            return;
    }
}

/* ------------------------------------------------------------------ ordering */

static struct lookup not_recorded(void)
{
    return lookup_failed(LOOKUP_REASON_UNAVAILABLE, BYTES_LITERAL("not recorded"));
}

struct lookup order_suspend(struct schedule *schedule, const char *what, const char *who)
{
    if (order_find(schedule, false, bytes_of_text(what)))
        return lookup_found();
    struct order *order = order_add(schedule, false, what, who);
    if (!order)
        return lookup_failed(LOOKUP_REASON_OVERLOADED, BYTES_LITERAL("too many orders"));
    order->since_wall_us = clock_wall_us();
    if (orders_save(schedule))
        return lookup_found();
    order_retire(schedule, order);
    return not_recorded();
}

struct lookup order_resume(struct schedule *schedule, const char *what)
{
    struct order *order = order_find(schedule, false, bytes_of_text(what));

    if (!order)
        return lookup_absent();
    order->until_wall_us = MAX_OF(clock_wall_us(), order->since_wall_us + 1);
    if (orders_save(schedule))
        return lookup_found();
    order->until_wall_us = 0;
    return not_recorded();
}

static bool route_set(struct schedule *schedule, const char *what, const struct order_route *route)
{
    struct order *before = order_find(schedule, true, bytes_of_text(what));

    if (before)
        order_retire(schedule, before);
    if (!route->via)
        return before != NULL;
    struct order *order = order_add(schedule, true, what, route->who);
    return order && via_set(order, bytes_of_text(route->via));
}

struct lookup order_reroute(struct schedule *schedule, const struct order_route *route)
{
    char id[ID_TEXT_MAX + 1] = "#";
    bool changed = false;

    if (route->message_count + schedule->order_count >= ORDERS_MAX)
        return lookup_failed(LOOKUP_REASON_OVERLOADED,
                             BYTES_LITERAL("too many messages: reroute a destination"));
    if (route->domain)
        changed = route_set(schedule, route->domain, route);
    for (size_t i = 0; i < route->message_count; i++) {
        id_print(route->messages[i], id + 1, sizeof(id) - 1);
        changed = route_set(schedule, id, route) || changed;
    }
    if (!changed)
        return lookup_absent();
    return orders_save(schedule) ? lookup_found() : not_recorded();
}

/* ------------------------------------------------------------------ orders that have come to an
 * end */

/* What was ordered for one message ends with it. The file is written a little later, for many. */
void orders_message_ended(struct schedule *schedule, uint64_t message)
{
    char id[ID_TEXT_MAX + 1] = "#";

    if (schedule->order_count == 0)
        return;
    id_print(message, id + 1, sizeof(id) - 1);
    struct order *order = order_find(schedule, true, bytes_of_text(id));
    if (!order)
        return;
    order_retire(schedule, order);
    schedule->orders_stale = true;
}

static void tidy_main(void *argument)
{
    struct schedule *schedule = argument;

    schedule->orders_stale = !orders_save(schedule);
    schedule->orders_tidying = false;
}

/* In a fiber of its own: a disk that hangs must not keep the taker. */
void orders_tidy(struct schedule *schedule)
{
    if (!schedule->orders_stale || schedule->orders_tidying ||
        clock_now_us() < schedule->orders_tidy_us)
        return;
    schedule->orders_tidy_us = deadline_in(TIDY_PAUSE_US);
    schedule->orders_tidying = fiber_start("orders", tidy_main, schedule) != NULL;
}
