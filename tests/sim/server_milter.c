/*
 * A milter. What it says to a letter, and at which step, is the letter's plan; it knows the letter
 * by the number in the sender's address. It keeps what it is told of a message, and has to have all
 * of it at the end. When the scenario says so it hangs, says half of what it wanted to say, cut at
 * any byte, or what no milter says.
 */
#include "server.h"

#include <string.h>

#include "wire/milter.h"

struct milter_session {
    struct ear ear;
    struct letter *letter; /* of the message under way */
    struct buffer message; /* as told so far */
    unsigned recipients;
};

/* ------------------------------------------------------------------ what is said */

static void put(struct buffer *into, uint8_t kind, struct bytes data)
{
    buffer_add_u32(into, (uint32_t)(data.count + 1));
    buffer_add_byte(into, kind);
    buffer_add(into, data);
}

static void put_texts(struct buffer *into, uint8_t kind, int index, const char *first,
                      const char *second)
{
    CLEANUP(buffer_free) struct buffer data = BUFFER_WITH_LIMIT(64 * KIB);

    if (index >= 0)
        buffer_add_u32(&data, (uint32_t)index);
    buffer_add(&data, bytes_of(first, strlen(first) + 1));
    if (second)
        buffer_add(&data, bytes_of(second, strlen(second) + 1));
    put(into, kind, buffer_view(&data));
}

static void put_changes(struct buffer *into, const struct letter *letter)
{
    const unsigned changes = letter->milter.changes;
    char words[80];

    snprintf(words, sizeof words, "letter %u", letter->number);
    if (changes & CHANGE_ADD)
        put_texts(into, MILTER_SAYS_ADD_HEADER, -1, "X-Milter-Added", words);
    if (changes & CHANGE_INSERT)
        put_texts(into, MILTER_SAYS_INSERT_HEADER, 0, "X-Milter-Inserted", words);
    snprintf(words, sizeof words, "changed %u", letter->number);
    if (changes & CHANGE_SUBJECT)
        put_texts(into, MILTER_SAYS_CHANGE_HEADER, 1, "Subject", words);
    if (changes & CHANGE_DELETE)
        put_texts(into, MILTER_SAYS_CHANGE_HEADER, 1, "X-Salt", "");
    snprintf(words, sizeof words, "The milter's words for letter %u\r\n", letter->number);
    if (changes & CHANGE_BODY)
        put(into, MILTER_SAYS_REPLACE_BODY, bytes_of_text(words));
    if (changes & CHANGE_ADD_ANN)
        put_texts(into, MILTER_SAYS_ADD_RECIPIENT, -1, "<ann@home.example>", NULL);
    if (changes & CHANGE_WITHOUT_FAR)
        put_texts(into, MILTER_SAYS_DELETE_RECIPIENT, -1, "<x@far.example>", NULL);
}

static void put_act(struct buffer *into, const struct letter *letter, enum milter_act act)
{
    switch (act) {
    case ACT_ACCEPT:
        put(into, MILTER_SAYS_ACCEPT, BYTES_EMPTY);
        return;
    case ACT_REJECT:
        put(into, MILTER_SAYS_REJECT, BYTES_EMPTY);
        return;
    case ACT_REPLY_5:
        put_texts(into, MILTER_SAYS_REPLY, -1, "550 5.7.9 The milter wants none of it", NULL);
        return;
    case ACT_REPLY_4:
        put_texts(into, MILTER_SAYS_REPLY, -1, "451 4.7.9 The milter wants it later", NULL);
        return;
    case ACT_REPLY_BAD:
        put_texts(into, MILTER_SAYS_REPLY, -1, "550 4.7.1 The milter wants both", NULL);
        return;
    case ACT_TEMPFAIL:
        put(into, MILTER_SAYS_TEMPFAIL, BYTES_EMPTY);
        return;
    case ACT_SHUTDOWN:
        put(into, MILTER_SAYS_SHUTDOWN, BYTES_EMPTY);
        return;
    case ACT_DISCARD:
        put(into, MILTER_SAYS_DISCARD, BYTES_EMPTY);
        return;
    case ACT_QUARANTINE:
        put_texts(into, MILTER_SAYS_QUARANTINE, -1, "somebody has to look at it", NULL);
        put(into, MILTER_SAYS_CONTINUE, BYTES_EMPTY);
        return;
    case ACT_CHANGE:
        put_changes(into, letter);
        put(into, MILTER_SAYS_ACCEPT, BYTES_EMPTY);
        return;
    case ACT_PASS:
    case ACT_COUNT:
        break;
    }
    put(into, MILTER_SAYS_CONTINUE, BYTES_EMPTY);
}

/* ------------------------------------------------------------------ misbehaviour */

static bool misbehaves(struct milter_session *session, struct bytes answer)
{
    static const struct bytes nonsense[] = {BYTES_LITERAL("\x7f\xff\xff\xff"
                                                          "c"),
                                            BYTES_LITERAL("\0\0\0\0"),
                                            BYTES_LITERAL("\0\0\0\1Z"),
                                            BYTES_LITERAL("\0\0\0\3hX\0"),
                                            BYTES_LITERAL("\0\0\0\2cc\0\0\0\1c"),
                                            BYTES_LITERAL("421 no milter here\r\n")};

    if (!peer_strikes(PEER_MILTER))
        return false;
    if (sim_chance(300000)) {
        peer_struck("the milter hangs");
        fiber_sleep_until(deadline_in(sim_below(120) * US_PER_S));
        return sim_chance(700000);
    }
    const bool cut = sim_chance(600000);
    const struct bytes said = cut ? bytes_slice(answer, 0, sim_below(answer.count))
                                  : nonsense[sim_below(COUNT_OF(nonsense))];
    peer_struck("the milter says %zu bytes of %zu%s and goes", said.count, answer.count,
                cut ? "" : " of nonsense");
    peer_say(session->ear.stream, said);
    return true;
}

/* True: the connection goes on. */
static bool answer(struct milter_session *session, enum milter_act act)
{
    CLEANUP(buffer_free) struct buffer words = BUFFER_WITH_LIMIT(64 * KIB);
    struct letter *letter = session->letter;

    put_act(&words, letter, act);
    if (misbehaves(session, buffer_view(&words)))
        return false;
    if (act != ACT_PASS) {
        tale_add(0, letter ? (int)letter->number : -1, "the milter's act %d, changes %u", (int)act,
                 letter ? letter->milter.changes : 0);
        if (act > ACT_FINAL && letter->milter.times > 0)
            letter->milter.times--;
    }
    return peer_say(session->ear.stream, buffer_view(&words));
}

/* ------------------------------------------------------------------ the steps */

static enum milter_act act_at(const struct letter *letter, enum plan_step step)
{
    const struct milter_plan *plan = letter ? &letter->milter : NULL;

    if (!plan || plan->at != step || (plan->act > ACT_FINAL && plan->times == 0))
        return ACT_PASS;
    return plan->act;
}

/* ACCEPT and what it does not object to at the end: it has let the letter pass. */
static bool step(struct milter_session *session, enum plan_step at)
{
    struct letter *letter = session->letter;
    const enum milter_act act = act_at(letter, at);
    const bool passes = act == ACT_ACCEPT || act == ACT_CHANGE || act == ACT_QUARANTINE ||
                        act == ACT_DISCARD || (at == STEP_END && act == ACT_PASS);

    if (letter && passes)
        letter->milter_passed = true;
    return answer(session, act);
}

static bool step_mail(struct milter_session *session, struct bytes data)
{
    session->letter = letter_from(data);
    session->recipients = 0;
    buffer_clear(&session->message);
    return step(session, STEP_MAIL);
}

static bool step_recipient(struct milter_session *session, struct bytes data)
{
    const struct letter *letter = session->letter;
    struct bytes path;

    bytes_cut(data, '\0', &path);
    path = bytes_slice(path, 1, path.count > 2 ? path.count - 2 : 0);
    if (letter && bytes_equal_text(path, letter->wanted[letter->milter.recipient]->address))
        return step(session, STEP_RCPT);
    return answer(session, ACT_PASS);
}

static bool step_field(struct milter_session *session, struct bytes data)
{
    struct bytes name, value;

    bytes_cut(bytes_cut(data, '\0', &name), '\0', &value);
    buffer_print(&session->message, "%.*s: %.*s\r\n", BYTES_PRINT(name), BYTES_PRINT(value));
    return setting.milter_mutes || step(session, STEP_FIELD);
}

static bool step_end(struct milter_session *session)
{
    struct bytes rest;
    const struct letter *letter = letter_in(buffer_view(&session->message), &rest);

    CHECK(letter && letter == session->letter && bytes_equal(rest, letter_text(letter)),
          "the milter was told something else: %.*s",
          BYTES_PRINT(bytes_slice(buffer_view(&session->message), 0, 600)));
    if (sim_chance(200000)) {
        peer_say(session->ear.stream, BYTES_LITERAL("\0\0\0\1p")); /* it takes a while */
        fiber_sleep_until(deadline_in(sim_below(20 * US_PER_S)));
    }
    return step(session, STEP_END);
}

static bool negotiate(struct milter_session *session)
{
    CLEANUP(buffer_free)
    struct buffer options = BUFFER_WITH_LIMIT(64), words = BUFFER_WITH_LIMIT(64);

    buffer_add_u32(&options, MILTER_VERSION);
    buffer_add_u32(&options, MILTER_ACTIONS_ALL);
    buffer_add_u32(&options, setting.milter_mutes
                                 ? MILTER_MUTE_HEADERS | MILTER_MUTE_EOH | MILTER_MUTE_BODY
                                 : 0);
    put(&words, MILTER_SAYS_OPTIONS, buffer_view(&options));
    return !misbehaves(session, buffer_view(&words)) &&
           peer_say(session->ear.stream, buffer_view(&words));
}

/* True: the connection goes on. */
static bool hear(struct milter_session *session, uint8_t command, struct bytes data)
{
    switch (command) {
    case 'O':
        return negotiate(session);
    case 'D': /* macros */
    case 'A':
    case 'K':
        return true;
    case 'M':
        return step_mail(session, data);
    case 'R':
        return step_recipient(session, data);
    case 'L':
        return step_field(session, data);
    case 'N':
        buffer_add_text(&session->message, "\r\n");
        return setting.milter_mutes || step(session, STEP_HEADER_END);
    case 'B':
        buffer_add(&session->message, data);
        return setting.milter_mutes || step(session, STEP_BODY);
    case 'E':
        buffer_add(&session->message, data);
        return step_end(session);
    case 'Q':
        return false;
    default: /* connection, HELO, DATA, unknown commands */
        return answer(session, ACT_PASS);
    }
}

void milter_serve(void *argument, struct stream *stream)
{
    struct milter_session session = {
        .ear = {.stream = stream, .heard = BUFFER_WITH_LIMIT(2 * CONTENT_MOST)},
        .message = BUFFER_WITH_LIMIT(CONTENT_MOST)};
    bool lives = true;

    CHECK(argument == &book, "an argument of our own");
    while (lives && ear_need(&session.ear, 5)) {
        struct reader reader = READER_OF(buffer_view(&session.ear.heard));
        const uint32_t length = reader_u32(&reader);

        CHECK(length > 0 && length < CONTENT_MOST, "a packet of a bounded size");
        lives = ear_need(&session.ear, 4 + length) &&
                hear(&session, session.ear.heard.at[4],
                     bytes_slice(buffer_view(&session.ear.heard), 5, length - 1));
        buffer_drop_front(&session.ear.heard, 4 + length);
    }
    buffer_free(&session.ear.heard);
    buffer_free(&session.message);
}
