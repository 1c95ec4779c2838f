/*
 * Clients that send numbered letters as real senders do: they try again what was deferred or lost,
 * for ever, and believe nothing but a reply. Every reply is written down.
 */
#include "server.h"

#include <string.h>

#include "crypto/crypto.h"

enum { REPLY_ROOM = 160, TEXT_ROOM = LETTER_BYTES_MOST + 1000 };
#define RETRY_LEAST_US (30 * US_PER_S)

enum door { DOOR_SMTP = 0, DOOR_SUBMISSION, DOOR_LMTP };

struct visit {
    struct line_reader reader;
    enum door door;
    struct letter *letter;
    struct attempt_note *attempt;
    unsigned asked[WANTED_MOST]; /* indexes of the recipients of this attempt */
    bool taken[WANTED_MOST];
    unsigned asked_count;
    uint64_t patience_us; /* for a reply */
    bool pipelined, chunked, prdr;
    char reply[REPLY_ROOM];
    unsigned code;
};

static struct {
    struct fiber *main, *fibers[CLIENTS_MOST];
    struct visit visits[CLIENTS_MOST];
    char texts[CLIENTS_MOST][2 * TEXT_ROOM];
    unsigned running;
} clients;

/* ------------------------------------------------------------------ words */

bool line_read(struct line_reader *reader, uint64_t deadline_us, struct bytes *line)
{
    buffer_drop_front(&reader->heard, reader->used);
    reader->used = 0;
    for (;;) {
        const struct bytes all = buffer_view(&reader->heard);
        const size_t end = bytes_find_byte(all, '\n');

        if (end < all.count) {
            reader->used = end + 1;
            *line = bytes_slice(all, 0, end > 0 && all.at[end - 1] == '\r' ? end - 1 : end);
            return true;
        }
        uint8_t *room = buffer_reserve(&reader->heard, 2048);
        if (!room || reader->heard.failed)
            return false;
        const struct io_result read =
            stream_read(reader->stream, (struct span){room, 2048}, deadline_us);
        if (read.status != IO_OK)
            return false;
        buffer_claim(&reader->heard, read.count);
    }
}

/* One whole reply; false: none came, and the session is over. */
static bool hear(struct visit *visit)
{
    const uint64_t deadline_us = deadline_in(visit->patience_us);
    struct bytes line;

    visit->code = 0;
    do {
        if (!line_read(&visit->reader, deadline_us, &line))
            return false;
        if (line.count < 4)
            return false;
    } while (line.at[3] == '-');
    snprintf(visit->reply, sizeof visit->reply, "%.*s", BYTES_PRINT(line));
    uint64_t code = 0;
    const bool fine = bytes_to_u64(bytes_slice(line, 0, 3), &code) && code >= 200 && code < 600;
    visit->code = (unsigned)code;
    return fine;
}

static bool say(const struct visit *visit, struct bytes words)
{
    return stream_write(visit->reader.stream, words, deadline_in(visit->patience_us)).status ==
           IO_OK;
}

static bool say_text(const struct visit *visit, const char *words)
{
    return say(visit, bytes_of_text(words));
}

/* ------------------------------------------------------------------ what was said of recipients */

static void refuse(struct visit *visit, unsigned asked)
{
    struct letter *letter = visit->letter;
    const unsigned index = visit->asked[asked];

    letter->fate[index] = WANTED_REFUSED;
    book.tally->refused++;
    sim_note("refused", letter->number * 10 + index);
}

static void hear_recipient(struct visit *visit, unsigned asked)
{
    const struct wanted *wanted = visit->letter->wanted[visit->asked[asked]];

    tale_add(0, (int)visit->letter->number, "RCPT %s: %s", wanted->address, visit->reply);
    if (planted == PLANT_REFUSE && visit->code == 451)
        visit->code = 550;
    visit->taken[asked] = visit->code / 100 == 2;
    if (visit->code / 100 == 5 && visit->code != 503)
        refuse(visit, asked);
}

static bool any_taken(const struct visit *visit)
{
    for (unsigned i = 0; i < visit->asked_count; i++)
        if (visit->taken[i])
            return true;
    return false;
}

static void taken_are(struct visit *visit, enum wanted_fate fate)
{
    for (unsigned i = 0; i < visit->asked_count; i++) {
        if (!visit->taken[i])
            continue;
        if (fate == WANTED_REFUSED)
            refuse(visit, i);
        else
            visit->letter->fate[visit->asked[i]] = fate;
        visit->attempt->places |= visit->letter->wanted[visit->asked[i]]->places;
    }
}

/* Said about a recipient, it is said only when that one is there. */
static bool milter_drops(const struct visit *visit)
{
    const struct milter_plan *plan = &visit->letter->milter;
    bool there = plan->at != STEP_RCPT;

    for (unsigned i = 0; i < visit->asked_count; i++)
        there |= visit->taken[i] && visit->asked[i] == plan->recipient;
    return plan->act == ACT_DISCARD && there;
}

/* What the milter makes of whom it goes to. */
static void note_changed_places(const struct visit *visit, struct message_note *message)
{
    const struct letter *letter = visit->letter;
    const unsigned changes = letter->milter.act == ACT_CHANGE ? letter->milter.changes : 0;
    const uint32_t added = changes & CHANGE_ADD_ANN ? UINT32_C(1) << PLACE_ANN : 0;
    const uint32_t removed = changes & CHANGE_WITHOUT_FAR ? UINT32_C(1) << PLACE_FAR : 0;
    const uint32_t before = message->places;
    const bool drops = milter_drops(visit);

    message->places = drops ? 0 : (before | added) & ~removed;
    if (setting.milter_accepts && !message->discarded) { /* it may have been passed over */
        message->places_maybe = before ^ message->places;
        message->places |= before;
    }
    TELL(message->discarded == (message->places == 0) ||
             (message->discarded && setting.milter_accepts && drops),
         (int)letter->number, "taken and dropped: %d", message->discarded);
}

/* What a filter drops goes to no other. */
static void note_judged(const struct letter *letter, bool dropped)
{
    TELL(dropped || letter->judged_clean || setting.scan_later, (int)letter->number,
         "letter %u was acknowledged without a verdict of clamd", letter->number);
    TELL(!letter->virus || setting.scan_later, (int)letter->number, "a virus was acknowledged");
    TELL(!setting.milter || letter->milter_passed || setting.milter_accepts, (int)letter->number,
         "letter %u was acknowledged without a verdict of the milter", letter->number);
    TELL(!setting.spamd || dropped || (letter->spamd_passed && !letter->spam), (int)letter->number,
         "letter %u was acknowledged without a verdict of spamd", letter->number);
}

static void note_taken(struct visit *visit)
{
    static const char mark[] = "Accepted as ";
    struct attempt_note *attempt = visit->attempt;
    const char *at = strstr(visit->reply, mark);

    attempt->end = ATTEMPT_TAKEN;
    CHECK(at &&
              id_parse(bytes_slice(bytes_of_text(at + sizeof mark - 1), 0, 13), &attempt->message),
          "an id in: %s", visit->reply);
    taken_are(visit, WANTED_TAKEN);
    struct message_note *message = message_note(attempt->message);
    TELL(!message->taken, (int)visit->letter->number, "the same id twice");
    message->has_letter = true;
    message->taken = planted != PLANT_UNTOLD;
    message->letter = visit->letter->number;
    message->places = attempt->places;
    note_changed_places(visit, message);
    TELL(message->held || visit->letter->milter.act != ACT_QUARANTINE || setting.milter_accepts,
         (int)visit->letter->number, "taken, and not kept back");
    tale_add(attempt->message, (int)visit->letter->number, "acknowledged: %s", visit->reply);
    sim_note("acknowledged", visit->letter->number);
    book.tally->acknowledged++;
    note_judged(visit->letter, message->discarded);
}

/* LMTP: one for each recipient; PRDR: the same, announced, and one for the whole. They agree. */
static bool hear_replies(struct visit *visit)
{
    unsigned more = 0;

    if (!hear(visit))
        return false;
    for (unsigned i = 0; i < visit->asked_count; i++)
        more += visit->taken[i];
    if (visit->door == DOOR_LMTP)
        more--;
    else if (visit->code != 353)
        return true;
    else if (!hear(visit))
        return false;
    for (; more > 0; more--) {
        const unsigned before = visit->code;

        if (!hear(visit))
            return before == 421 || before / 100 == 5;
        TELL(visit->code == before, (int)visit->letter->number, "%u, and then %u for another",
             before, visit->code);
    }
    return true;
}

/* The reply to the dot. */
static void hear_end(struct visit *visit)
{
    struct attempt_note *attempt = visit->attempt;

    if (visit->code / 100 == 2) {
        note_taken(visit);
        return;
    }
    tale_add(0, (int)visit->letter->number, "dot: %s", visit->reply);
    attempt->end = visit->code / 100 == 5 ? ATTEMPT_REFUSED : ATTEMPT_DEFERRED;
    attempt->stored_maybe = strstr(visit->reply, "(spool.") != NULL;
    if (attempt->end == ATTEMPT_REFUSED)
        taken_are(visit, WANTED_REFUSED);
}

/* ------------------------------------------------------------------ a letter */

static void print_commands(struct visit *visit, struct buffer *into)
{
    const struct letter *letter = visit->letter;

    buffer_print(into, "MAIL FROM:<%s>%s\r\n", letter->from, visit->prdr ? " PRDR" : "");
    visit->asked_count = 0;
    for (unsigned i = 0; i < letter->wanted_count; i++) {
        if (letter->fate[i] != WANTED_PENDING)
            continue;
        visit->taken[visit->asked_count] = false;
        visit->asked[visit->asked_count++] = i;
        buffer_print(into, "RCPT TO:<%s>\r\n", letter->wanted[i]->address);
    }
    if (visit->pipelined && !visit->chunked)
        buffer_add_text(into, "DATA\r\n");
}

/* The replies to MAIL and RCPT, said together or one by one. */
static bool hear_envelope(struct visit *visit, struct bytes commands)
{
    if (visit->pipelined && !say(visit, commands))
        return false;
    for (unsigned i = 0; i < visit->asked_count + 1; i++) {
        struct bytes line;

        commands = bytes_cut(commands, '\n', &line);
        line.count++;
        if ((!visit->pipelined && !say(visit, line)) || !hear(visit))
            return false;
        if (i > 0) {
            hear_recipient(visit, i - 1);
            continue;
        }
        if (visit->code / 100 == 2)
            continue;
        tale_add(0, (int)visit->letter->number, "MAIL: %s", visit->reply);
        for (unsigned k = 0; visit->code / 100 == 5 && k < visit->asked_count; k++)
            refuse(visit, k);
        if (!visit->pipelined)
            return visit->code != 421;
    }
    return true;
}

static size_t stuff(struct bytes text, char *into)
{
    size_t count = 0;

    for (size_t i = 0; i < text.count; i++) {
        if (text.at[i] == '.' && (i == 0 || text.at[i - 1] == '\n'))
            into[count++] = '.';
        into[count++] = (char)text.at[i];
    }
    return count;
}

/* The last write has the end in it; from then on nobody knows, until there is a reply. */
static bool send_text(struct visit *visit, char *text, bool chunked)
{
    const struct bytes plain = letter_text(visit->letter);
    size_t count;

    if (chunked) {
        count = (size_t)snprintf(text, 40, "BDAT %zu LAST\r\n", plain.count);
        memcpy(text + count, plain.at, plain.count);
        count += plain.count;
    } else {
        count = stuff(plain, text);
        memcpy(text + count, ".\r\n", 3);
        count += 3;
    }
    const size_t half = count / 2;
    if (sim_chance(300000)) {
        if (!say(visit, bytes_of(text, half)) ||
            fiber_sleep_until(deadline_in(sim_below(20 * US_PER_S))) != IO_OK)
            return false;
        memmove(text, text + half, count - half);
        count -= half;
    }
    visit->attempt->end = ATTEMPT_DOT;
    if (!say(visit, bytes_of(text, count)) || !hear_replies(visit)) {
        tale_add(0, (int)visit->letter->number, "no reply to the dot");
        return false;
    }
    hear_end(visit);
    return true;
}

/* With pipelining DATA was said already; without a recipient it is refused, or gets an empty body.
 */
static bool send_data(struct visit *visit, char *text)
{
    if (visit->chunked && !any_taken(visit))
        return say_text(visit, "RSET\r\n") && hear(visit);
    if (visit->chunked)
        return send_text(visit, text, true);
    if (!visit->pipelined && !any_taken(visit))
        return say_text(visit, "RSET\r\n") && hear(visit);
    if (!visit->pipelined && !say_text(visit, "DATA\r\n"))
        return false;
    if (!hear(visit))
        return false;
    if (visit->code == 354)
        return send_text(visit, text, false);
    tale_add(0, (int)visit->letter->number, "DATA: %s", visit->reply);
    return visit->code != 421 && say_text(visit, "RSET\r\n") && hear(visit);
}

/* False when the session is over. */
static bool send_letter(struct visit *visit, char *text)
{
    struct letter *letter = visit->letter;
    struct buffer commands = BUFFER_WITH_LIMIT(4 * KIB);

    CHECK(book.attempt_count < ATTEMPTS_MOST, "room for another attempt");
    visit->attempt = &book.attempts[book.attempt_count++];
    *visit->attempt = (struct attempt_note){.letter = letter->number, .life = book.life};
    visit->pipelined = sim_chance(500000);
    visit->chunked = sim_chance(250000);
    visit->prdr = visit->door == DOOR_SMTP && sim_chance(250000);
    print_commands(visit, &commands);
    const bool lives = hear_envelope(visit, buffer_view(&commands)) && send_data(visit, text);
    buffer_free(&commands);
    return lives && visit->code != 421;
}

/* ------------------------------------------------------------------ sessions */

static bool letter_is_of(const struct letter *letter, const char *user)
{
    return strncmp(letter->from, user, strlen(user)) == 0;
}

/* Not everybody may use every door. */
static bool fits_door(const struct letter *letter, enum door door)
{
    return door == DOOR_SMTP || (door == DOOR_LMTP ? !letter->ghost : letter_is_of(letter, "dora"));
}

static struct letter *next_letter(unsigned client, bool only_due, enum door door)
{
    struct letter *best = NULL;

    for (unsigned i = 0; i < book.letter_count; i++) {
        struct letter *letter = &book.letters[i];

        if (letter->client != client || !letter_is_open(letter) || !fits_door(letter, door))
            continue;
        if (only_due && letter->due_us > clock_now_us())
            continue;
        if (!best || letter->due_us < best->due_us)
            best = letter;
    }
    return best;
}

/* Later and later, up to half an hour. */
static void put_off(struct letter *letter)
{
    const unsigned doublings = MIN_OF(letter->tries++, 6U);
    const uint64_t wait_us = MIN_OF(RETRY_LEAST_US << doublings, 1800 * US_PER_S);

    letter->due_us = clock_now_us() + wait_us + sim_below(wait_us / 4);
}

/* The right password is never called wrong, a wrong one never right, whatever fails. */
static bool log_in(struct visit *visit)
{
    static const char right[] = "AUTH PLAIN AGRvcmFAY29ycC5leGFtcGxlAHJpZ2h0\r\n";
    static const char wrong[] = "AUTH PLAIN AGRvcmFAY29ycC5leGFtcGxlAHdyb25n\r\n";
    const int letter = (int)visit->letter->number;

    if (sim_chance(200000)) {
        if (!say_text(visit, wrong) || !hear(visit))
            return false;
        tale_add(0, letter, "AUTH, wrong: %s", visit->reply);
        TELL(visit->code == 535 || visit->code / 100 == 4, letter, "a wrong password: %u",
             visit->code);
    }
    if (!say_text(visit, planted == PLANT_PASSWORD ? wrong : right) || !hear(visit))
        return false;
    tale_add(0, letter, "AUTH: %s", visit->reply);
    TELL(visit->code == 235 || visit->code / 100 == 4, letter, "the right password: %u",
         visit->code);
    return visit->code == 235;
}

static bool hello(struct visit *visit)
{
    return say_text(visit, visit->door == DOOR_LMTP ? "LHLO client.far.example\r\n"
                                                    : "EHLO client.far.example\r\n") &&
           hear(visit) && visit->code == 250;
}

static bool go_under_tls(struct visit *visit)
{
    const struct tls_peer_demand nothing = {0};
    struct tls_facts facts;

    if (!say_text(visit, "STARTTLS\r\n") || !hear(visit) || visit->code != 220)
        return false;
    const struct io_result done = tls_connect(tls_of_clients(), &nothing, &visit->reader.stream,
                                              deadline_in(60 * US_PER_S), &facts);
    if (done.status != IO_OK)
        tale_add(0, (int)visit->letter->number, "no TLS: %s", io_result_text(done));
    return done.status == IO_OK && hello(visit);
}

static bool greet(struct visit *visit)
{
    if (!hear(visit))
        return false;
    if (visit->code != 220) {
        tale_add(0, (int)visit->letter->number, "banner: %s", visit->reply);
        return false;
    }
    if (!hello(visit) || (setting.tls && sim_chance(600000) && !go_under_tls(visit)))
        return false;
    return visit->door != DOOR_SUBMISSION || log_in(visit);
}

static void hold_session(struct visit *visit, unsigned client)
{
    visit->reader.heard = BUFFER_WITH_LIMIT(64 * KIB);
    visit->reader.used = 0;
    bool lives = greet(visit);

    while (lives) {
        put_off(visit->letter);
        lives = send_letter(visit, clients.texts[client]);
        if (lives && (visit->letter = next_letter(client, true, visit->door)) == NULL)
            break;
    }
    if (lives && say_text(visit, "QUIT\r\n"))
        (void)hear(visit);
    buffer_free(&visit->reader.heard);
}

static enum door draw_door(const struct letter *letter)
{
    const bool doras = letter_is_of(letter, "dora");

    if (setting.lmtp && !letter->ghost && sim_chance(300000))
        return DOOR_LMTP;
    return setting.submission && doras && sim_chance(600000) ? DOOR_SUBMISSION : DOOR_SMTP;
}

static void visit_server(unsigned client, struct letter *letter)
{
    static const char *const doors[] = {"192.0.2.1:25", "192.0.2.1:587", "192.0.2.1:24"};
    const enum door door = draw_door(letter);
    struct visit *visit = &clients.visits[client];
    struct endpoint server, own;

    CHECK(endpoint_parse(bytes_of_text(doors[door]), &server), "an address");
    CHECK(endpoint_parse(BYTES_LITERAL("198.51.100.10:25"), &own), "an address");
    own.port = 0;
    own.ip.octets[3] = (uint8_t)(own.ip.octets[3] + client);
    /* Some senders wait only a minute. */
    *visit = (struct visit){.door = door,
                            .letter = letter,
                            .patience_us =
                                (sim_chance(300000) ? UINT64_C(60) : UINT64_C(600)) * US_PER_S};
    const struct io_result dialled =
        stream_dial(&server, &own, deadline_in(30 * US_PER_S), &visit->reader.stream);
    if (dialled.status == IO_OK) {
        hold_session(visit, client);
        stream_close(visit->reader.stream);
    }
    if (letter_is_open(letter) && letter->due_us <= clock_now_us())
        put_off(letter);
}

static void client_main(void *argument)
{
    const unsigned client = (unsigned)(uintptr_t)argument;
    struct letter *letter;

    if (planted == PLANT_UNANSWERED)
        fiber_sleep_until(deadline_in(5 * 3600 * US_PER_S));
    while ((letter = next_letter(client, false, DOOR_SMTP)) != NULL) {
        if (letter->due_us > clock_now_us() && fiber_park(letter->due_us) == IO_CANCELLED)
            break;
        if (fiber_cancelled() || sim_crashed())
            break;
        if (letter->due_us <= clock_now_us())
            visit_server(client, letter);
    }
    clients.fibers[client] = NULL;
    clients.running--;
    fiber_wake(clients.main);
}

void clients_start(struct fiber *main)
{
    memset(&clients, 0, sizeof clients);
    clients.main = main;
    for (unsigned i = 0; i < book.client_count; i++) {
        clients.fibers[i] = fiber_start("client", client_main, (void *)(uintptr_t)i);
        CHECK(clients.fibers[i] != NULL, "a fiber");
        clients.running++;
    }
}

bool clients_are_done(void)
{
    return clients.running == 0;
}
