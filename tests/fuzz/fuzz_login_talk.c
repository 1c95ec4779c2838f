/*
 * Our own login at a next hop that may be hostile, to its end. By SCRAM we are in only when the
 * server proved that it knows the password, too; the password goes out only where nothing better
 * was offered; it stands in no transcript and in no outcome, and a login that fails defers.
 *
 * Input: one octet of options, then what the server says: its reply to EHLO, and one reply to each
 * line of ours, with 0xff between them. In a reply, text between two 0x04 is said in base 64; in it
 * 0x01 stands for our nonce, 0x02 for the right first message, 0x03 for the proof that fits.
 */
#include "deliver/inside.h"
#include "hostile_peer.h"
#include "scram_keys.h"

#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { ALL_OFFERED = 1 };
enum { NONCE = 1, FIRST = 2, PROOF = 3, BASE64 = 4 };

#define OFFER "250-mx.test\r\n250-AUTH LOGIN PLAIN SCRAM-SHA-256\r\n250 SIZE"
#define PASSWORD_BASE64 "cGVuY2ls"

static struct scram_keys keys;
static char login_file[64];

static struct server {
    struct hostile_peer peer;
    struct arena arena;
    struct bytes rest, client_first, first, client_final;
    struct buffer out;
    bool proved; /* the fitting proof was said */
} server;

/* No thread is needed. */
enum io_status __wrap_work_run(void (*work)(void *argument), void *argument);
enum io_status __wrap_work_run(void (*work)(void *argument), void *argument)
{
    work(argument);
    return IO_OK;
}

/* ------------------------------------------------------------------ the server */

static struct bytes nonce_of(struct bytes bare)
{
    const size_t at = bytes_find(bare, BYTES_LITERAL("r="));
    struct bytes nonce = BYTES_EMPTY;

    bytes_cut(bytes_skip(bare, at + 2), ',', &nonce);
    return nonce;
}

static void add_first(struct buffer *text)
{
    CLEANUP(buffer_free) struct buffer salt = BUFFER_WITH_LIMIT(KIB);

    base64_encode(&salt, BYTES_LITERAL(SCRAM_SALT));
    buffer_print(text, "r=%.*sserver,s=%.*s,i=1",
                 BYTES_PRINT(nonce_of(scram_bare(server.client_first))),
                 BYTES_PRINT(buffer_view(&salt)));
}

static void add_proof(struct buffer *text)
{
    uint8_t signature[SECRET_KEY_BYTES];
    const struct bytes what = arena_print(
        &server.arena, "%.*s,%.*s,%.*s", BYTES_PRINT(scram_bare(server.client_first)),
        BYTES_PRINT(server.first), BYTES_PRINT(scram_without_proof(server.client_final)));

    scram_signature(&keys, what, signature);
    buffer_add_text(text, "v=");
    base64_encode(text, bytes_of(signature, sizeof signature));
    server.proved = server.client_final.count > 0;
}

static void add_encoded(struct buffer *reply, struct bytes template)
{
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(64 * KIB);

    for (size_t i = 0; i < template.count; i++) {
        if (template.at[i] == NONCE)
            buffer_add(&text, nonce_of(scram_bare(server.client_first)));
        else if (template.at[i] == FIRST)
            add_first(&text);
        else if (template.at[i] == PROOF)
            add_proof(&text);
        else
            buffer_add_byte(&text, template.at[i]);
    }
    if (server.first.count == 0)
        server.first = arena_copy(&server.arena, buffer_view(&text));
    base64_encode(reply, buffer_view(&text));
}

static void server_answers(void)
{
    struct bytes template, part;
    bool encoded = false;

    server.rest = bytes_cut(server.rest, PART_END, &template);
    while (template.count > 0) {
        template = bytes_cut(template, BASE64, &part);
        if (encoded)
            add_encoded(&server.out, part);
        else
            buffer_add(&server.out, part);
        encoded = !encoded;
    }
    server.peer.input = buffer_view(&server.out);
    server.peer.released = server.peer.input.count;
}

/* Our lines: the first has the mechanism in front. */
static void server_hears(struct hostile_peer *peer, struct bytes said)
{
    struct bytes line = bytes_trim(said), plain = BYTES_EMPTY;
    const size_t blank = bytes_find_last_byte(line, ' ');

    (void)peer;
    if (blank < line.count)
        line = bytes_skip(line, blank + 1);
    if (base64_decode(&server.arena, line, &plain) && plain.count > 0) {
        if (server.client_first.count == 0)
            server.client_first = plain;
        else
            server.client_final = plain;
    }
    server_answers();
}

/* ------------------------------------------------------------------ what has to hold */

static bool said(const char *words)
{
    const struct bytes written = buffer_view(&server.peer.written);

    return bytes_find(written, bytes_of_text(words)) < written.count;
}

static bool shows(struct bytes text, const char *words)
{
    return bytes_find(text, bytes_of_text(words)) < text.count;
}

static void check(const struct deliver_channel *channel, bool in, const struct outcome *trouble,
                  unsigned options)
{
    const struct bytes transcript = dialogue_view(&channel->dialogue);

    INVARIANT(!in || !said("AUTH SCRAM") || server.proved);
    if (options & ALL_OFFERED)
        INVARIANT(!said("AUTH PLAIN") && !said("AUTH LOGIN"));
    INVARIANT(!said("AUTH SCRAM") || !said(PASSWORD_BASE64));
    INVARIANT(!shows(transcript, SCRAM_PASSWORD) && !shows(transcript, "AHUAcGVuY2ls") &&
              !shows(transcript, PASSWORD_BASE64));
    if (in)
        return;
    INVARIANT(trouble->verdict.kind == VERDICT_DEFER);
    INVARIANT(!shows(trouble->reply, SCRAM_PASSWORD) &&
              !shows(trouble->verdict.detail, SCRAM_PASSWORD));
}

static int fuzz_main(void *argument)
{
    const unsigned options = *(const unsigned *)argument;
    static struct config config = {.hostname = "c.test"};
    struct arena arena = ARENA_WITH_LIMIT(4 * MIB);
    struct config_sending sending = {.login = login_file};
    const struct destination to = {.kind = DELIVER_SMTP, .sending = &sending};
    const struct deliver_settings settings = {.config = &config};
    struct outcome trouble = {0};
    struct bytes greeting;
    char why[200];
    struct deliver *deliver = deliver_open(&settings, why, sizeof why);
    INVARIANT(deliver != NULL);
    struct deliver_channel *channel = deliver_channel_open(deliver, &to);

    server.rest = bytes_cut(server.rest, PART_END, &greeting);
    hostile_open(&server.peer, BYTES_EMPTY, 0);
    server.peer.hears = server_hears;
    channel->arena = &arena;
    channel->stream = &server.peer.stream;
    channel->greeting = options & ALL_OFFERED ? BYTES_LITERAL(OFFER) : greeting;
    channel->dialogue.direction = DIALOGUE_OUT;
    snprintf(channel->tls, sizeof channel->tls, "TLSv1.3");
    metric_add(COUNTER_SESSIONS_OUT, 1);
    wire_input_open(&channel->input, channel->stream);
    const bool in = login_say(channel, &trouble);
    check(channel, in, &trouble, options);
    deliver_channel_close(channel);
    deliver_close(deliver);
    buffer_free(&server.peer.written);
    arena_clear(&arena);
    return 0;
}

static void prepare(void)
{
    snprintf(login_file, sizeof login_file, "/tmp/holdfast-fuzz-login-XXXXXX");
    const int descriptor = mkstemp(login_file);

    INVARIANT(descriptor >= 0 && write(descriptor, "u\n" SCRAM_PASSWORD "\n", 9) == 9);
    close(descriptor);
}

static void tidy(void)
{
    unlink(login_file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct reader reader = READER_OF(bytes_of(data, MIN_OF(size, (size_t)4096)));
    unsigned options = reader_u8(&reader);

    observe_configure(LOG_NONE, LOG_ERROR);
    if (!login_file[0]) {
        prepare();
        atexit(tidy);
    }
    keys = scram_keys_made();
    server = (struct server){
        .arena = ARENA_WITH_LIMIT(4 * MIB), .rest = reader.rest, .out = BUFFER_WITH_LIMIT(4 * MIB)};
    INVARIANT(world_run(fuzz_main, &options, 1) == 0);
    arena_clear(&server.arena);
    buffer_free(&server.out);
    return 0;
}
