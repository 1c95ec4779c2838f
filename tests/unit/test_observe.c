/* The journal's lines, the exposition, the sinks, and a standard error that nobody reads. */
#include "world_check.h"

#include <fcntl.h>
#include <jansson.h>
#include <string.h>
#include <unistd.h>

#include "observe/observe.h"

/* Standard error becomes a pipe or a file for a moment. */
struct capture {
    int saved, read_end;
    char text[256 * 1024];
    size_t count;
};
static struct capture capture;

/* A line that never comes ends the program. */
enum { CAPTURE_MAX_S = 120 };

static void capture_begin(void)
{
    int ends[2];

    capture.count = 0;
    capture.saved = dup(STDERR_FILENO);
    assert_int_equal(pipe(ends), 0);
    assert_true(dup2(ends[1], STDERR_FILENO) >= 0);
    close(ends[1]);
    capture.read_end = ends[0];
    alarm(CAPTURE_MAX_S);
}

/* Reads until the line with these words has come: lines under load are written a little later. */
static void capture_until(const char *words)
{
    capture.text[capture.count] = 0;
    while (!strstr(capture.text, words) || capture.text[capture.count - 1] != '\n') {
        const ssize_t got = read(capture.read_end, capture.text + capture.count,
                                 sizeof capture.text - 1 - capture.count);
        assert_true(got > 0);
        capture.count += (size_t)got;
        capture.text[capture.count] = 0;
    }
}

static void capture_end(void)
{
    alarm(0);
    dup2(capture.saved, STDERR_FILENO);
    close(capture.saved);
    close(capture.read_end);
}

static struct event full_event(void)
{
    return (struct event){.kind = EVENT_MESSAGE_DEFERRED,
                          .stage = STAGE_RCPT,
                          .message = 0x0123456789abcdef,
                          .session = 77,
                          .verdict = verdict_of(CAUSE_FILTER_TIMEOUT),
                          .has_verdict = true,
                          .client = BYTES_LITERAL("192.0.2.1:4711"),
                          .helo = BYTES_LITERAL("h\"e\\l\no"),
                          .from = BYTES_LITERAL("a\xff@b.example"),
                          .to = BYTES_LITERAL("\xc3\xbc\xc2\x9b@c.example"),
                          .mx = BYTES_LITERAL("mx.example"),
                          .filter = BYTES_LITERAL("clamav"),
                          .text = BYTES_LITERAL("451 4.3.0 later"),
                          .code = 451,
                          .attempt = 3,
                          .next_wall_us = 1700000000000000,
                          .took_us = 12345,
                          .size_bytes = 99,
                          .wall_us = 1764000000000123};
}

static const char *member(const json_t *line, const char *name)
{
    const char *text = json_string_value(json_object_get(line, name));

    return text ? text : "(absent)";
}

/* Every line of the capture is one JSON object; gives the one with this event name. */
static json_t *line_of(const char *event)
{
    json_t *found = NULL;
    char *rest = capture.text;

    for (char *line = strsep(&rest, "\n"); line && rest; line = strsep(&rest, "\n")) {
        json_t *object = json_loads(line, 0, NULL);
        assert_non_null(object);
        if (!found && strcmp(member(object, "event"), event) == 0)
            found = json_incref(object);
        json_decref(object);
    }
    assert_non_null(found);
    return found;
}

static void test_json(void **state UNUSED)
{
    const struct event event = full_event();
    char id[ID_TEXT_MAX];

    observe_configure(LOG_JSON, LOG_INFO);
    capture_begin();
    observe_event(&event);
    capture_until("message.deferred");
    capture_end();
    json_t *line = line_of("message.deferred");
    assert_string_equal(member(line, "time"), "2025-11-24T16:00:00.000123Z");
    assert_string_equal(member(line, "message"), id_print(event.message, id, sizeof id));
    assert_string_equal(member(line, "session"), id_print(77, id, sizeof id));
    assert_string_equal(member(line, "client"), "192.0.2.1:4711");
    assert_string_equal(member(line, "helo"), "h\"e\\l\no");
    assert_string_equal(member(line, "from"), "a\xef\xbf\xbd@b.example");
    assert_string_equal(member(line, "to"), "\xc3\xbc\xc2\x9b@c.example");
    assert_null(strstr(capture.text, "\xc2\x9b")); /* escaped in the line itself */
    assert_string_equal(member(line, "stage"), "rcpt");
    assert_string_equal(member(line, "cause"), "filter.timeout");
    assert_string_equal(member(line, "side"), "ours");
    assert_string_equal(member(line, "enhanced"), "4.3.0");
    assert_string_equal(member(line, "text"), "451 4.3.0 later");
    assert_string_equal(member(line, "filter"), "clamav");
    assert_string_equal(member(line, "mx"), "mx.example");
    assert_string_equal(member(line, "next"), "2023-11-14T22:13:20.000000Z");
    assert_int_equal(json_integer_value(json_object_get(line, "code")), 451);
    assert_int_equal(json_integer_value(json_object_get(line, "attempt")), 3);
    assert_int_equal(json_integer_value(json_object_get(line, "size")), 99);
    assert_true(json_number_value(json_object_get(line, "took_ms")) > 12.344 &&
                json_number_value(json_object_get(line, "took_ms")) < 12.346);
    json_decref(line);
}

static void test_absent_members(void **state UNUSED)
{
    const struct event event = {.kind = EVENT_SERVER_STARTED, .wall_us = 1};

    capture_begin();
    observe_event(&event);
    capture_until("server.started");
    capture_end();
    assert_string_equal(
        capture.text, "{\"time\":\"1970-01-01T00:00:00.000001Z\",\"event\":\"server.started\"}\n");
}

/* The longest and nastiest members still make one whole line that a pipe takes at once. */
static void test_bounds(void **state UNUSED)
{
    static uint8_t nasty[5000];
    const struct bytes view = bytes_of(nasty, sizeof nasty);
    struct event event = full_event();

    for (unsigned fill = 0; fill < 256; fill += 15) {
        memset(nasty, (int)fill, sizeof nasty);
        event.client = event.helo = event.from = event.to = event.mx = event.filter = event.text =
            event.enhanced = view;
        capture_begin();
        observe_event(&event);
        capture_until("}\n");
        capture_end();
        assert_true(capture.count <= 4096);
        json_decref(line_of("message.deferred"));
    }
}

static void test_levels(void **state UNUSED)
{
    const struct event quiet = {.kind = EVENT_SESSION_OPEN};

    capture_begin();
    observe_event(&quiet); /* debug: not written at info */
    observe_note(LOG_DEBUG, "room", "not %s", "this");
    observe_note(LOG_ERROR, "room", "but \x1b%s", "this");
    capture_until("note");
    observe_configure(LOG_NONE, LOG_DEBUG);
    observe_note(LOG_ERROR, "room", "nor this");
    observe_configure(LOG_JSON, LOG_INFO);
    capture_end();
    assert_null(strstr(capture.text, "session.open"));
    assert_null(strstr(capture.text, "\x1b"));
    json_t *line = line_of("note");
    assert_string_equal(member(line, "text"), "but \x1bthis");
    assert_string_equal(member(line, "level"), "error");
    assert_string_equal(member(line, "room"), "room");
    json_decref(line);
}

static void test_postfix(void **state UNUSED)
{
    struct event event = full_event();
    char id[ID_TEXT_MAX], expected[400];

    observe_configure(LOG_POSTFIX, LOG_INFO);
    capture_begin();
    event.kind = EVENT_DELIVERY_DEFERRED;
    event.verdict = verdict_of(CAUSE_CONNECT_REFUSED);
    event.to = BYTES_LITERAL("bob@c.example");
    event.text = BYTES_LITERAL("refused\r\n");
    observe_event(&event);
    capture_until("status=");
    snprintf(
        expected, sizeof expected,
        ": %s: to=<bob@c.example>, relay=mx.example, delay=0.01, delays=0/0/0/0.01, dsn=4.4.1, "
        "status=deferred (refused?\?)\n",
        id_print(event.message, id, sizeof id));
    assert_non_null(strstr(capture.text, expected));
    assert_non_null(strstr(capture.text, " holdfast/smtp["));
    event.kind = EVENT_MESSAGE_DEFERRED;
    event.verdict = verdict_of(CAUSE_FILTER_TIMEOUT);
    observe_event(&event);
    capture_until(
        "NOQUEUE: reject: RCPT from unknown[192.0.2.1:4711]: 451 4.3.0 <bob@c.example>: ");
    event.kind = EVENT_MESSAGE_ACCEPTED;
    observe_event(&event);
    capture_until("qmgr");
    capture_end();
    observe_configure(LOG_JSON, LOG_INFO);
}

/* Nobody reads: lines are dropped and counted, and the caller comes back. */
static void test_full_pipe(void **state UNUSED)
{
    const int64_t before = metric_get(COUNTER_LOG_DROPPED);
    const struct event event = full_event();

    capture_begin();
    for (unsigned i = 0; i < 12000; i++) /* more than both buffers and the pipe hold */
        observe_event(&event);
    assert_true(metric_get(COUNTER_LOG_DROPPED) > before);
    /* What was kept comes whole once somebody reads again. */
    capture_until("message.deferred");
    size_t lines = 0;
    while (lines < 100) {
        lines = 0;
        for (size_t i = 0; i < capture.count; i++)
            lines += capture.text[i] == '\n';
        const ssize_t got = read(capture.read_end, capture.text + capture.count,
                                 sizeof capture.text - 1 - capture.count);
        assert_true(got > 0);
        capture.count += (size_t)got;
    }
    while (capture.text[capture.count - 1] != '\n')
        capture.count--;
    capture.text[capture.count] = 0;
    json_decref(line_of("message.deferred"));
    capture_end();
}

/* ------------------------------------------------------------------ sinks */

static unsigned seen;

static void sink(void *argument, const struct event *event)
{
    assert_true(event->wall_us != 0);
    seen += *(unsigned *)argument;
}

static void test_sinks(void **state UNUSED)
{
    unsigned one = 1, ten = 10;
    const struct event event = {.kind = EVENT_SESSION_CLOSE};

    assert_true(observe_add_sink(sink, &one));
    assert_true(observe_add_sink(sink, &ten));
    assert_true(observe_add_sink(sink, &ten));
    assert_true(observe_add_sink(sink, &ten));
    assert_false(observe_add_sink(sink, &ten));
    observe_event(&event);
    assert_int_equal(seen, 31);
    observe_remove_sink(sink, &ten);
    observe_event(&event);
    assert_int_equal(seen, 32);
    observe_remove_sinks();
    observe_event(&event);
    assert_int_equal(seen, 32);
}

/* ------------------------------------------------------------------ metrics */

static struct buffer exposition = BUFFER_WITH_LIMIT(4 * MIB);

static const char *exposed(void)
{
    buffer_clear(&exposition);
    metrics_print(&exposition);
    buffer_add_byte(&exposition, 0);
    assert_false(exposition.failed);
    return (const char *)exposition.at;
}

static void test_metrics(void **state UNUSED)
{
    struct event event = {.kind = EVENT_MESSAGE_ACCEPTED, .size_bytes = 1000};

    observe_configure(LOG_NONE, LOG_ERROR);
    observe_event(&event);
    event = (struct event){.kind = EVENT_DELIVERY_DONE, .verdict = verdict_accept()};
    observe_event(&event);
    event = (struct event){.kind = EVENT_MESSAGE_REFUSED,
                           .has_verdict = true,
                           .verdict = verdict_of(CAUSE_FILTER_REFUSED)};
    observe_event(&event);
    metric_set(COUNTER_SESSIONS_IN, 4);
    metric_add(COUNTER_SESSIONS_IN, -1);
    metric_observe(HISTOGRAM_SPOOL_COMMIT, 50);
    metric_observe(HISTOGRAM_SPOOL_COMMIT, 51);
    metric_observe(HISTOGRAM_SPOOL_COMMIT, UINT64_C(3600) * 1000000);
    metric_observe(HISTOGRAM_SPOOL_BATCH, 3);
    metric_observe_filter(BYTES_LITERAL("cla\"mav"), 700);
    metric_set_labelled("holdfast_breaker_open", "dependency", BYTES_LITERAL("clamav"), 1);
    const char *text = exposed();
    assert_non_null(strstr(text, "\nholdfast_messages_accepted_total 2\n"));
    assert_non_null(strstr(text, "\nholdfast_accepted_bytes_total 1099\n"));
    assert_non_null(strstr(text, "\nholdfast_sessions{direction=\"in\"} 3\n"));
    assert_non_null(strstr(text, "holdfast_deferrals_total{cause=\"filter.timeout\",side=\"ours\","
                                 "stage=\"rcpt\"} "));
    assert_non_null(strstr(text, "\nholdfast_refusals_total{cause=\"filter.refused\"} 1\n"));
    assert_non_null(
        strstr(text, "\nholdfast_deliveries_total{result=\"delivered\",cause=\"accepted\"} 1\n"));
    assert_non_null(strstr(text, "\nholdfast_spool_commit_seconds_bucket{le=\"5e-05\"} 1\n"));
    assert_non_null(strstr(text, "\nholdfast_spool_commit_seconds_bucket{le=\"0.0001\"} 2\n"));
    assert_non_null(strstr(text, "\nholdfast_spool_commit_seconds_bucket{le=\"+Inf\"} 3\n"));
    assert_non_null(strstr(text, "\nholdfast_spool_commit_seconds_sum 3600.0001\n"));
    assert_non_null(strstr(text, "\nholdfast_spool_batch_messages_bucket{le=\"4\"} 1\n"));
    assert_non_null(
        strstr(text, "\nholdfast_filter_seconds_bucket{filter=\"cla\\\"mav\",le=\"0.001\"} 1\n"));
    assert_non_null(strstr(text, "\nholdfast_filter_seconds_count{filter=\"cla\\\"mav\"} 1\n"));
    assert_non_null(strstr(text, "\nholdfast_breaker_open{dependency=\"clamav\"} 1\n"));
}

/* Each family is described once and its samples stand together; no sample twice. */
static void test_exposition(void **state UNUSED)
{
    char *copy = strdup(exposed()), *rest = copy;
    char family[100] = "";
    const char *seen_families[200];
    size_t count = 0;

    for (char *line = strsep(&rest, "\n"); line && *line; line = strsep(&rest, "\n")) {
        if (strncmp(line, "# HELP ", 7) == 0) {
            snprintf(family, sizeof family, "%.*s", (int)strcspn(line + 7, " "), line + 7);
            for (size_t i = 0; i < count; i++)
                assert_string_not_equal(seen_families[i], family);
            seen_families[count++] = strdup(family);
        } else if (strncmp(line, "# TYPE ", 7) == 0) {
            assert_int_equal(strncmp(line + 7, family, strlen(family)), 0);
        } else {
            assert_int_equal(strncmp(line, family, strlen(family)), 0);
            char *end = NULL;
            const char *value = strrchr(line, ' ');
            assert_non_null(value);
            strtod(value + 1, &end);
            assert_int_equal(*end, 0);
        }
    }
    assert_true(count >= 15);
    for (size_t i = 0; i < count; i++)
        free((void *)(uintptr_t)seen_families[i]);
    free(copy);
}

static void test_many_names(void **state UNUSED)
{
    char name[20];

    for (unsigned i = 0; i < 100; i++) {
        snprintf(name, sizeof name, "filter%u", i);
        metric_observe_filter(bytes_of_text(name), 1);
    }
    const char *text = exposed();
    assert_non_null(strstr(text, "holdfast_filter_seconds_count{filter=\"filter30\"} 1\n"));
    assert_null(strstr(text, "filter=\"filter31\""));
    assert_non_null(strstr(text, "holdfast_filter_seconds_count{filter=\"other\"} 69\n"));
    buffer_free(&exposition);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_json),       cmocka_unit_test(test_absent_members),
        cmocka_unit_test(test_bounds),     cmocka_unit_test(test_levels),
        cmocka_unit_test(test_postfix),    cmocka_unit_test(test_full_pipe),
        cmocka_unit_test(test_sinks),      cmocka_unit_test(test_metrics),
        cmocka_unit_test(test_exposition), cmocka_unit_test(test_many_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
