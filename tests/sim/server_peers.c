/*
 * Who the server speaks to, and the next hops that take its mail. Well behaved unless the scenario
 * says otherwise; then each stage may answer 4yz or 5yz, hang, lie in words, or go.
 */
#include "server.h"

#include <stdarg.h>
#include <string.h>

static unsigned moods[PEER_KINDS]; /* of misbehaviour, at each stage; parts per million */

void peers_behave(void)
{
    memset(moods, 0, sizeof moods);
}

void peers_misbehave(enum peer peer, unsigned ppm)
{
    moods[peer] = ppm;
}

bool peer_strikes(enum peer peer)
{
    if (!sim_chance(moods[peer]))
        return false;
    book.faults_struck++;
    return true;
}

void peer_struck(const char *format, ...)
{
    char text[160];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    tale_add(0, -1, "fault: %s", text);
}

bool peer_say(struct stream *stream, struct bytes words)
{
    return words.count == 0 ||
           stream_write(stream, words, deadline_in(PEER_PATIENCE_US)).status == IO_OK;
}

bool peer_say_text(struct stream *stream, const char *words)
{
    return peer_say(stream, bytes_of_text(words));
}

bool ear_need(struct ear *ear, size_t count)
{
    while (ear->heard.count < count) {
        uint8_t *room = buffer_reserve(&ear->heard, 4096);

        CHECK(room != NULL, "memory");
        const struct io_result read =
            stream_read(ear->stream, (struct span){room, 4096}, deadline_in(PEER_PATIENCE_US));
        if (read.status != IO_OK)
            return false;
        buffer_claim(&ear->heard, read.count);
    }
    return true;
}

/* ------------------------------------------------------------------ a next hop */

struct hop {
    struct line_reader reader;
    enum place places[WANTED_MOST * 4];
    unsigned place_count;
    bool null_sender, secret; /* secret: under TLS */
    bool strange;             /* its certificate is not the one that is known */
    struct buffer content;
};

enum hop_answer { HOP_FINE = 0, HOP_GO_ON, HOP_OVER };

static void struck(const char *what, const char *stage)
{
    peer_struck("next hop: %s at %s", what, stage);
}

static enum hop_answer hang(void)
{
    fiber_sleep_until(deadline_in(sim_below(1200) * US_PER_S));
    return HOP_OVER;
}

/* HOP_FINE: the stage goes as it should. A refusal is for good, so only where the sender can be
 * told. */
static enum hop_answer misbehave(struct hop *hop, const char *stage, bool may_refuse)
{
    static const char *const deferrals[] = {
        "451 4.3.0 Come back later\r\n",
        "450-4.2.0 Greylisted,\r\n450 4.2.0 try again in 5 min\r\n", "421 4.3.2 Going down\r\n",
        "452 Insufficient space\r\n"};

    if (!peer_strikes(PEER_HOPS))
        return HOP_FINE;
    switch (sim_below(may_refuse && !hop->null_sender ? 6 : 5)) {
    case 0:
    case 1: {
        const char *words = deferrals[sim_below(COUNT_OF(deferrals))];

        struck(words, stage);
        return peer_say_text(hop->reader.stream, words) && memcmp(words, "421", 3) != 0 ? HOP_GO_ON
                                                                                        : HOP_OVER;
    }
    case 2:
        struck("hangs", stage);
        return hang();
    case 3:
        struck("goes", stage);
        return HOP_OVER;
    case 4:
        struck("garbage", stage);
        return peer_say_text(hop->reader.stream, "what is this\r\n") ? HOP_GO_ON : HOP_OVER;
    default:
        struck("refuses", stage);
        book.hop_refused = true;
        return peer_say_text(hop->reader.stream, "550 5.7.1 Not wanted\r\n") ? HOP_GO_ON : HOP_OVER;
    }
}

/* True: the session goes on. */
static bool answer(struct hop *hop, const char *stage, const char *words, bool *fine)
{
    const enum hop_answer answered =
        misbehave(hop, stage, strcmp(stage, "RCPT") == 0 || strcmp(stage, "MAIL") == 0);

    if (fine)
        *fine = answered == HOP_FINE;
    if (answered == HOP_FINE)
        return peer_say_text(hop->reader.stream, words);
    return answered == HOP_GO_ON;
}

static bool hop_recipient(struct hop *hop, struct bytes line)
{
    struct bytes address = BYTES_EMPTY;
    enum place place = PLACE_COUNT;
    bool fine = false;

    bytes_cut(bytes_skip(line, bytes_find_byte(line, '<') + 1), '>', &address);
    CHECK(place_named(address, &place), "mail for %.*s", BYTES_PRINT(line));
    if (place == PLACE_NO)
        return peer_say_text(hop->reader.stream, "550 5.1.1 No such user\r\n");
    if (!answer(hop, "RCPT", "250 2.1.5 Fine\r\n", &fine))
        return false;
    CHECK(hop->place_count < COUNT_OF(hop->places), "recipients");
    if (fine)
        hop->places[hop->place_count++] = place;
    return true;
}

/* Until the dot. False: the connection went before. */
static bool hop_content(struct hop *hop)
{
    struct bytes line;

    buffer_clear(&hop->content);
    while (line_read(&hop->reader, deadline_in(PEER_PATIENCE_US), &line)) {
        if (bytes_equal_text(line, "."))
            return true;
        buffer_add(&hop->content, line.count > 0 && line.at[0] == '.' ? bytes_skip(line, 1) : line);
        buffer_add_text(&hop->content, "\r\n");
        CHECK(!hop->content.failed, "a message of a bounded size");
    }
    return false;
}

static bool hop_lose_reply(void)
{
    const bool hangs = sim_chance(500000);

    struck(hangs ? "took it and hangs" : "took it and goes", "the dot");
    if (hangs)
        hang();
    return false;
}

static bool hop_data(struct hop *hop)
{
    bool fine = false;

    if (hop->place_count == 0)
        return peer_say_text(hop->reader.stream, "554 5.5.1 No recipients\r\n");
    if (!answer(hop, "DATA", "354 Go on\r\n", &fine))
        return false;
    if (!fine)
        return true;
    if (!hop_content(hop))
        return false;
    const enum hop_answer answered = misbehave(hop, "the dot", true);
    if (answered != HOP_FINE)
        return answered == HOP_GO_ON;
    for (unsigned i = 0; i < hop->place_count; i++)
        parcel_arrived(buffer_view(&hop->content), hop->places[i], false);
    hop->place_count = 0;
    if (peer_strikes(PEER_HOPS))
        return hop_lose_reply();
    return peer_say_text(hop->reader.stream, "250 2.0.0 Taken\r\n");
}

static bool hop_is(const struct hop *hop, const char *text)
{
    struct endpoint at;

    return endpoint_parse(bytes_of_text(text), &at) && hop->reader.stream->local.port == at.port &&
           ip_equal(&hop->reader.stream->local.ip, &at.ip);
}

/* The server has had the policy in this life, and nothing has happened that may have taken it. */
static bool policy_is_known(void)
{
    const uint64_t given_us = sim_document_given_us(STS_POLICY_HOST);

    return !book.forgetful && given_us > book.life_began_us &&
           clock_now_us() < given_us + (STS_AGE_S - 60) * US_PER_S;
}

/* At MAIL: who must be spoken to under TLS is, and has shown the right certificate. */
static void check_demand(const struct hop *hop)
{
    const bool by_policy = hop_is(hop, STS_AT) && policy_is_known();

    if (!setting.tls)
        return;
    if (hop_is(hop, STATIC_AT) || hop_is(hop, DANE_AT) || by_policy)
        TELL(hop->secret, TALE_ALL, "mail in clear where TLS must be");
    if (hop_is(hop, DANE_AT) || by_policy)
        TELL(!hop->strange, TALE_ALL, "mail to a host with another certificate than is known");
}

static bool hop_greets(struct hop *hop)
{
    static const char plain[] = "250-hop\r\n250-PIPELINING\r\n250 8BITMIME\r\n";
    static const char secure[] = "250-hop\r\n250-STARTTLS\r\n250-PIPELINING\r\n250 8BITMIME\r\n";
    const bool offers = setting.tls && !hop->secret;

    if (offers && peer_strikes(PEER_HOPS)) { /* or somebody between them takes it out */
        struck("STARTTLS is not offered", "EHLO");
        return peer_say_text(hop->reader.stream, plain);
    }
    return answer(hop, "EHLO", offers ? secure : plain, NULL);
}

/* What was read with the command does not count afterwards (RFC 3207 5). */
static bool hop_secures(struct hop *hop)
{
    struct stream *below = hop->reader.stream;
    bool fine = false;

    if (!answer(hop, "STARTTLS", "220 Go on\r\n", &fine))
        return false;
    if (!fine)
        return true;
    enum tls_kind kind = hop_is(hop, STS_AT) ? TLS_BY_NAME : TLS_BY_KEY;

    hop->strange = peer_strikes(PEER_HOPS);
    if (hop->strange) {
        struck("shows another certificate", "STARTTLS");
        kind = TLS_STRANGE;
    }
    hop->strange |= planted == PLANT_STRANGE;
    hop->reader.stream = tls_serve(tls_of_hops(kind), below);
    hop->secret = hop->reader.stream != NULL && planted != PLANT_CLEAR;
    buffer_clear(&hop->reader.heard);
    hop->reader.used = 0;
    return hop->reader.stream != NULL;
}

static bool hop_command(struct hop *hop, struct bytes line)
{
    if (bytes_starts_with_nocase(line, BYTES_LITERAL("EHLO")))
        return hop_greets(hop);
    if (setting.tls && !hop->secret && bytes_equal_text_nocase(line, "STARTTLS"))
        return hop_secures(hop);
    if (bytes_starts_with_nocase(line, BYTES_LITERAL("MAIL"))) {
        check_demand(hop);
        hop->null_sender = bytes_find(line, BYTES_LITERAL("<>")) < line.count;
        hop->place_count = 0;
        return answer(hop, "MAIL", "250 2.1.0 Fine\r\n", NULL);
    }
    if (bytes_starts_with_nocase(line, BYTES_LITERAL("RCPT")))
        return hop_recipient(hop, line);
    if (bytes_starts_with_nocase(line, BYTES_LITERAL("DATA")))
        return hop_data(hop);
    if (bytes_starts_with_nocase(line, BYTES_LITERAL("QUIT"))) {
        peer_say_text(hop->reader.stream, "221 Bye\r\n");
        return false;
    }
    hop->place_count = 0;
    return peer_say_text(hop->reader.stream, "250 Fine\r\n");
}

static void hop_serve(void *argument, struct stream *stream)
{
    struct hop *hop = calloc(1, sizeof *hop);
    struct bytes line;

    CHECK(hop && argument == &book, "memory");
    hop->reader = (struct line_reader){.stream = stream, .heard = BUFFER_WITH_LIMIT(64 * KIB)};
    hop->content = BUFFER_WITH_LIMIT(CONTENT_MOST);
    hop->null_sender = true; /* nobody is refused before MAIL */
    bool lives = answer(hop, "banner", "220 hop ESMTP\r\n", NULL);
    while (lives && line_read(&hop->reader, deadline_in(PEER_PATIENCE_US), &line))
        lives = hop_command(hop, line);
    if (hop->reader.stream != stream)
        stream_close(hop->reader.stream);
    buffer_free(&hop->reader.heard);
    buffer_free(&hop->content);
    free(hop);
}

/* ------------------------------------------------------------------ opening */

static const struct {
    const char *at;
    sim_peer *serve;
} others[] = {{"203.0.113.1:25", hop_serve},
              {"203.0.113.2:25", hop_serve},
              {FAR6_AT, hop_serve},
              {MX26_AT, hop_serve},
              {DANE_AT, hop_serve},
              {STS_AT, hop_serve},
              {STATIC_AT, hop_serve},
              {CLAMD_AT, clamd_serve},
              {MILTER_AT, milter_serve},
              {SPAMD_AT, spamd_serve},
              {DIRECTORY_AT, directory_serve},
              {RUNNER_AT, runner_serve}};

void peers_start(void)
{
    struct endpoint at;

    for (size_t i = 0; i < COUNT_OF(others); i++) {
        CHECK(endpoint_parse(bytes_of_text(others[i].at), &at), "an address");
        CHECK(sim_serve(&at, others[i].serve, &book), "a listener");
    }
}

unsigned peers_listening(void)
{
    return COUNT_OF(others);
}
