/*
 * Dialogues, line by line: kept as a bounded transcript by who speaks, and shown live to those who
 * trace. Nobody traces: one relaxed load a line. The text of AUTH and of its answers is left out
 * here, for both.
 */
#include "observe/line.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>

enum { TRACES_MAX = 8, HEAD_BYTES = 4096, LINE_MAX_BYTES = 1024, ROOM_FIRST = 1024 };
#define TRACE_BYTES_MAX (256 * KIB)

struct trace {
    struct trace_filter filter;
    struct buffer lines; /* guarded by the lock, as `dropped` */
    bool dropped;
    struct waitlist changed;
};

static pthread_mutex_t traces_lock = PTHREAD_MUTEX_INITIALIZER;
static struct trace *traces[TRACES_MAX];
static atomic_uint trace_counts[2]; /* by direction */

/* ------------------------------------------------------------------ the transcript */

static bool dialogue_room(struct dialogue *dialogue, size_t count)
{
    size_t room = dialogue->room ? dialogue->room : ROOM_FIRST;

    while (room < dialogue->count + count)
        room *= 2;
    if (room <= dialogue->room)
        return true;
    char *at = realloc(dialogue->at, MIN_OF(room, (size_t)DIALOGUE_BYTES_MAX));
    if (!at)
        return false;
    dialogue->at = at;
    dialogue->room = (uint32_t)MIN_OF(room, (size_t)DIALOGUE_BYTES_MAX);
    return true;
}

/* The first lines tell with whom, the last ones what went wrong: those between give way. */
static void dialogue_cut(struct dialogue *dialogue, size_t count)
{
    size_t end = HEAD_BYTES;

    if (dialogue->count + count <= DIALOGUE_BYTES_MAX)
        return;
    if (!dialogue->cut) {
        const char *line_end =
            memchr(dialogue->at + HEAD_BYTES, '\n', dialogue->count - HEAD_BYTES);
        dialogue->cut = line_end ? (uint32_t)(line_end + 1 - dialogue->at) : HEAD_BYTES;
    }
    end = MIN_OF(dialogue->cut + MAX_OF(count, (size_t)2048), (size_t)dialogue->count);
    const char *line_end = memchr(dialogue->at + end, '\n', dialogue->count - end);
    end = line_end ? (size_t)(line_end + 1 - dialogue->at) : dialogue->count;
    memmove(dialogue->at + dialogue->cut, dialogue->at + end, dialogue->count - end);
    dialogue->count -= (uint32_t)(end - dialogue->cut);
}

enum { SECONDS_WIDTH = 6, HEAD_WIDTH = SECONDS_WIDTH + 4 + 3 };

/* "     0.012 < "; without printf, as each line of every session passes here. */
static void print_head(char into[HEAD_WIDTH], uint64_t ms, char mark)
{
    uint64_t seconds = ms / 1000;

    memset(into, ' ', HEAD_WIDTH);
    for (int i = SECONDS_WIDTH - 1; i >= 0 && (seconds > 0 || i == SECONDS_WIDTH - 1); i--) {
        into[i] = (char)('0' + seconds % 10);
        seconds /= 10;
    }
    into[SECONDS_WIDTH] = '.';
    into[SECONDS_WIDTH + 1] = (char)('0' + ms / 100 % 10);
    into[SECONDS_WIDTH + 2] = (char)('0' + ms / 10 % 10);
    into[SECONDS_WIDTH + 3] = (char)('0' + ms % 10);
    into[HEAD_WIDTH - 2] = mark;
}

static void dialogue_keep(struct dialogue *dialogue, char mark, struct bytes text)
{
    const uint64_t now_us = clock_now_us();

    if (dialogue->count == 0)
        dialogue->begun_us = now_us;
    const size_t count = HEAD_WIDTH + text.count + 1;
    dialogue_cut(dialogue, count);
    if (!dialogue_room(dialogue, count) || dialogue->count + count > dialogue->room)
        return;
    print_head(dialogue->at + dialogue->count, (now_us - dialogue->begun_us) / US_PER_MS, mark);
    if (text.count > 0)
        memcpy(dialogue->at + dialogue->count + HEAD_WIDTH, text.at, text.count);
    dialogue->at[dialogue->count + count - 1] = '\n';
    dialogue->count += (uint32_t)count;
}

struct bytes dialogue_view(const struct dialogue *dialogue)
{
    return bytes_of(dialogue->at, dialogue->count);
}

void dialogue_clear(struct dialogue *dialogue)
{
    free(dialogue->at);
    dialogue->at = NULL;
    dialogue->count = dialogue->room = dialogue->cut = 0;
}

/* ------------------------------------------------------------------ live */

static bool client_matches(const struct trace_filter *filter, struct bytes peer)
{
    const struct bytes wanted = bytes_of_text(filter->client);
    const struct bytes rest = bytes_skip(peer, peer.count > 0 && peer.at[0] == '[');
    const struct bytes behind = bytes_skip(rest, wanted.count);

    return wanted.count == 0 || (bytes_starts_with_nocase(rest, wanted) &&
                                 (behind.count == 0 || behind.at[0] == ':' || behind.at[0] == ']'));
}

static bool trace_wants(const struct trace_filter *filter, const struct dialogue *dialogue)
{
    const struct bytes wanted = bytes_of_text(filter->destination);

    if (filter->direction != dialogue->direction)
        return false;
    if (filter->direction == DIALOGUE_IN)
        return client_matches(filter, bytes_of_text(dialogue->peer));
    return wanted.count == 0 || bytes_equal_nocase(wanted, bytes_of_text(dialogue->domain)) ||
           bytes_equal_nocase(wanted, bytes_of_text(dialogue->destination));
}

static void trace_text(struct line *line, const char *key, struct bytes value)
{
    if (value.count == 0)
        return;
    line_add_text(line, ",\"");
    line_add_text(line, key);
    line_add_text(line, "\":\"");
    line_add_json(line, value, 2000);
    line_add_text(line, "\"");
}

static void trace_line(struct line *line, const struct dialogue *dialogue, char mark,
                       struct bytes text)
{
    line->count = 0;
    line_add_text(line, "{\"time\":\"");
    line_add_time(line, clock_wall_us());
    line_add_text(line, "\",\"direction\":\"");
    line_add_text(line, dialogue->direction == DIALOGUE_IN ? "in" : "out");
    line_add_text(line,
                  dialogue->direction == DIALOGUE_IN ? "\",\"session\":\"" : "\",\"message\":\"");
    line_add_id(line, dialogue->id);
    line_add_text(line, "\"");
    trace_text(line, dialogue->direction == DIALOGUE_IN ? "client" : "host",
               bytes_of_text(dialogue->peer));
    trace_text(line, "destination", bytes_of_text(dialogue->destination));
    line_add_text(line, ",\"from\":\"");
    line_add_text(line, mark == '>' ? "us" : mark == '<' ? "them" : "note");
    line_add_text(line, "\"");
    trace_text(line, "text", text);
    line_add_text(line, "}\n");
}

static void dialogue_show(const struct dialogue *dialogue, char mark, struct bytes text)
{
    struct line line;

    trace_line(&line, dialogue, mark, text);
    pthread_mutex_lock(&traces_lock);
    for (unsigned i = 0; i < TRACES_MAX; i++) {
        struct trace *trace = traces[i];
        if (!trace || trace->dropped || !trace_wants(&trace->filter, dialogue))
            continue;
        buffer_add(&trace->lines, line_view(&line));
        trace->dropped = trace->lines.failed;
        waitlist_wake_all(&trace->changed);
    }
    pthread_mutex_unlock(&traces_lock);
}

struct trace *trace_open(const struct trace_filter *filter)
{
    struct trace *trace = calloc(1, sizeof *trace);
    bool placed = false;

    if (!trace)
        return NULL;
    trace->filter = *filter;
    trace->lines = BUFFER_WITH_LIMIT(TRACE_BYTES_MAX);
    pthread_mutex_lock(&traces_lock);
    for (unsigned i = 0; i < TRACES_MAX && !placed; i++) {
        placed = traces[i] == NULL;
        if (placed)
            traces[i] = trace;
    }
    pthread_mutex_unlock(&traces_lock);
    if (!placed) {
        free(trace);
        return NULL;
    }
    atomic_fetch_add(&trace_counts[filter->direction], 1);
    return trace;
}

void trace_close(struct trace *trace)
{
    if (!trace)
        return;
    atomic_fetch_sub(&trace_counts[trace->filter.direction], 1);
    pthread_mutex_lock(&traces_lock);
    for (unsigned i = 0; i < TRACES_MAX; i++)
        if (traces[i] == trace)
            traces[i] = NULL;
    pthread_mutex_unlock(&traces_lock);
    buffer_free(&trace->lines);
    free(trace);
}

/* Moves what there is into `into`; false when the reader was too slow and lines were lost. */
static bool trace_take(struct trace *trace, struct buffer *into)
{
    pthread_mutex_lock(&traces_lock);
    const bool whole = !trace->dropped;
    buffer_add(into, buffer_view(&trace->lines));
    buffer_clear(&trace->lines);
    pthread_mutex_unlock(&traces_lock);
    return whole;
}

bool trace_read(struct trace *trace, uint64_t deadline_us, struct buffer *into)
{
    struct waiter waiter;

    waitlist_join(&trace->changed, &waiter);
    bool whole = trace_take(trace, into);
    while (whole && into->count == 0 && fiber_park(deadline_us) == IO_OK)
        whole = trace_take(trace, into);
    waitlist_leave(&trace->changed, &waiter);
    return whole;
}

/* ------------------------------------------------------------------ one line */

static bool is_traced(const struct dialogue *dialogue)
{
    return atomic_load_explicit(&trace_counts[dialogue->direction], memory_order_relaxed) > 0;
}

static void dialogue_put(struct dialogue *dialogue, char mark, struct bytes text)
{
    text = bytes_slice(text, 0, LINE_MAX_BYTES);
    dialogue_keep(dialogue, mark, text);
    if (is_traced(dialogue))
        dialogue_show(dialogue, mark, text);
}

/* Who forgets the mechanism may say the secret in its place: only known names are shown. */
static bool is_mechanism(struct bytes word)
{
    static const char *const names[] = {"PLAIN",         "LOGIN",       "CRAM-MD5",
                                        "DIGEST-MD5",    "SCRAM-SHA-1", "SCRAM-SHA-1-PLUS",
                                        "SCRAM-SHA-256", "OAUTHBEARER", "SCRAM-SHA-256-PLUS",
                                        "XOAUTH2",       "EXTERNAL",    "GSSAPI",
                                        "NTLM",          "ANONYMOUS"};

    for (size_t i = 0; i < COUNT_OF(names); i++)
        if (bytes_equal_text_nocase(word, names[i]))
            return true;
    return false;
}

/* The next word: blanks are what the parser of commands takes for them. */
static struct bytes take_word(struct bytes *rest)
{
    size_t from = 0, to = 0;

    while (from < rest->count && (rest->at[from] == ' ' || rest->at[from] == '\t'))
        from++;
    for (to = from; to < rest->count && rest->at[to] != ' ' && rest->at[to] != '\t';)
        to++;
    const struct bytes word = bytes_slice(*rest, from, to - from);
    *rest = bytes_skip(*rest, to);
    return word;
}

/* "AUTH PLAIN AGEAYg==" -> "AUTH PLAIN [left out]". */
static bool put_login(struct dialogue *dialogue, char mark, struct bytes line)
{
    char text[64];
    struct bytes rest = line;

    if (line.count < 4 || (line.at[0] | 0x20) != 'a' ||
        !bytes_equal_text_nocase(take_word(&rest), "AUTH"))
        return false;
    const struct bytes mechanism = take_word(&rest);
    const bool known = is_mechanism(mechanism);
    const bool more = (mechanism.count > 0 && !known) || take_word(&rest).count > 0;
    snprintf(text, sizeof text, "AUTH%s%.*s%s", known ? " " : "",
             known ? (int)MIN_OF(mechanism.count, (size_t)32) : 0, (const char *)mechanism.at,
             more ? " [left out]" : "");
    dialogue_put(dialogue, mark, bytes_of_text(text));
    return true;
}

void dialogue_line(struct dialogue *dialogue, enum dialogue_speaker speaker, struct bytes lines)
{
    const char mark = speaker == DIALOGUE_US ? '>' : '<';
    const bool is_answer = (speaker == DIALOGUE_US) == (dialogue->direction == DIALOGUE_IN);

    while (lines.count > 0) {
        struct bytes line = BYTES_EMPTY;
        lines = bytes_cut(lines, '\n', &line);
        line =
            bytes_slice(line, 0, line.count - (line.count > 0 && line.at[line.count - 1] == '\r'));
        /* A question of a login says who asks, and may repeat what was answered. */
        if (is_answer && bytes_starts_with(line, BYTES_LITERAL("334")))
            line = BYTES_LITERAL("334 [left out]");
        if (!put_login(dialogue, mark, line))
            dialogue_put(dialogue, mark, line);
    }
}

void dialogue_note(struct dialogue *dialogue, const char *format, ...)
{
    char text[400];
    va_list arguments;

    va_start(arguments, format);
    const int count = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    dialogue_put(dialogue, '*',
                 bytes_of(text, count < 0 ? 0 : MIN_OF((size_t)count, sizeof text - 1)));
}

/* Without printf, as each message passes here. */
void dialogue_message(struct dialogue *dialogue, uint64_t octets, const char *words)
{
    static const char before[] = "a message of ", after[] = " octets";
    char digits[20], text[128];
    size_t digit_count = 0, count = 0;

    do
        digits[digit_count++] = (char)('0' + octets % 10);
    while ((octets /= 10) > 0);
    memcpy(text, before, sizeof before - 1);
    count = sizeof before - 1;
    while (digit_count > 0)
        text[count++] = digits[--digit_count];
    memcpy(text + count, after, sizeof after - 1);
    count += sizeof after - 1;
    const struct bytes rest = bytes_slice(bytes_of_text(words), 0, sizeof text - count);
    memcpy(text + count, rest.at, rest.count);
    dialogue_put(dialogue, '*', bytes_of(text, count + rest.count));
}
