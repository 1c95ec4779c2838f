/* Letters, what became of them, and the tale that is told when something is not so. */
#include "server.h"

#include <stdarg.h>
#include <string.h>

#include "mail/mail.h"

struct book book;

const char *const place_addresses[PLACE_COUNT] = {
    [PLACE_BOB] = "bob@home.example",     [PLACE_ANN] = "ann@home.example",
    [PLACE_ALICE] = "alice@home.example", [PLACE_DORA] = "dora@corp.example",
    [PLACE_FAR] = "x@far.example",        [PLACE_CAROL] = "carol@far.example",
    [PLACE_NEAR] = "y@near.example",      [PLACE_STATIC] = "z@static.example",
    [PLACE_NO] = "n@no.example",          [PLACE_GONE] = "g@gone.example",
    [PLACE_DEAD] = "d@dead.example",      [PLACE_PIPE] = "p@pipe.example",
    [PLACE_DANE] = "s@dane.example",      [PLACE_STS] = "t@sts.example",
};

#define BIT(place) (UINT32_C(1) << (place))

/* The last ones are rare: dead.example takes the whole lifetime of a message. */
static const struct wanted choices[] = {
    {"bob@home.example", BIT(PLACE_BOB), false, false, false},
    {"ann@home.example", BIT(PLACE_ANN), false, false, false},
    {"x@far.example", BIT(PLACE_FAR), false, false, false},
    {"y@near.example", BIT(PLACE_NEAR), false, false, false},
    {"dora@corp.example", BIT(PLACE_DORA), false, true, false},
    {"p@pipe.example", BIT(PLACE_PIPE), false, false, false},
    {"crew@corp.example", BIT(PLACE_DORA) | BIT(PLACE_FAR), false, true, false},
    {"z@static.example", BIT(PLACE_STATIC), false, false, false},
    {"s@dane.example", BIT(PLACE_DANE), false, false, true},
    {"t@sts.example", BIT(PLACE_STS), false, false, true},
    {"team@home.example", BIT(PLACE_BOB) | BIT(PLACE_ANN) | BIT(PLACE_FAR), false, false, false},
    {"nobody@corp.example", 0, true, true, false},
    {"nobody@home.example", 0, true, false, false},
    {"n@no.example", BIT(PLACE_NO), false, false, false},
    {"g@gone.example", BIT(PLACE_GONE), false, false, false},
    {"d@dead.example", BIT(PLACE_DEAD), false, false, false},
};

static bool is_named(struct bytes address, const char *plain)
{
    struct bytes whole = bytes_of_text(plain), local, tag;
    const struct bytes domain = bytes_cut(whole, '@', &local);

    if (bytes_equal_nocase(address, whole))
        return true;
    if (!bytes_starts_with_nocase(address, local) || address.count <= local.count ||
        address.at[local.count] != '+')
        return false;
    return bytes_equal_nocase(bytes_cut(address, '@', &tag), domain);
}

bool place_named(struct bytes address, enum place *place)
{
    for (unsigned i = 0; i < PLACE_COUNT; i++)
        if (is_named(address, place_addresses[i])) {
            *place = (enum place)i;
            return true;
        }
    return false;
}

/* ------------------------------------------------------------------ letters */

/* A generator of its own: the world's is drawn from by what happens. */
static uint64_t plan_state;

uint64_t plan_below(uint64_t limit)
{
    plan_state += UINT64_C(0x9e3779b97f4a7c15);
    uint64_t value = plan_state;

    value = (value ^ (value >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    value = (value ^ (value >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (value ^ (value >> 31)) % limit;
}

static void plan_wanted(struct letter *letter)
{
    const unsigned count = 1 + (unsigned)plan_below(plan_below(2) ? WANTED_MOST : 2);
    const unsigned first = (unsigned)plan_below(COUNT_OF(choices));

    for (unsigned i = 0; i < count; i++) {
        const unsigned choice = (first + i * 3) % COUNT_OF(choices);

        if (choices[choice].places & BIT(PLACE_DEAD) && plan_below(4) != 0)
            continue;
        if ((choices[choice].corp && !setting.corp) || (choices[choice].tls && !setting.tls))
            continue;
        letter->wanted[letter->wanted_count++] = &choices[choice];
    }
    if (letter->wanted_count == 0)
        letter->wanted[letter->wanted_count++] = &choices[plan_below(4)];
}

static void plan_milter(struct letter *letter)
{
    struct milter_plan *plan = &letter->milter;

    *plan = (struct milter_plan){.act = plan_below(2) ? ACT_PASS
                                                      : (enum milter_act)plan_below(ACT_COUNT),
                                 .at = (enum plan_step)plan_below(STEP_END + 1),
                                 .recipient = (unsigned)plan_below(letter->wanted_count),
                                 .times = 1 + (unsigned)plan_below(2),
                                 .changes = 1 + (unsigned)plan_below(CHANGE_ALL)};
    if (letter->spam) /* dropped by one filter and refused by another: never both */
        plan->changes &= ~(unsigned)CHANGE_WITHOUT_FAR;
    if (!setting.milter || letter->virus || letter->ghost ||
        (letter->spam && plan->act == ACT_DISCARD) ||
        (plan->at == STEP_RCPT && letter->wanted[plan->recipient]->refused))
        plan->act = ACT_PASS;
    if (plan->act == ACT_CHANGE || plan->act == ACT_QUARANTINE ||
        (setting.milter_mutes && plan->at >= STEP_FIELD))
        plan->at = STEP_END;
}

static void plan_letter(struct letter *letter, unsigned number)
{
    static const char *const senders[][2] = {{"alice", "home.example"},
                                             {"carol", "far.example"},
                                             {"dora", "corp.example"},
                                             {"ghost", "nowhere.example"}};
    const unsigned usual = setting.corp ? 3 : 2;
    const unsigned sender = (unsigned)plan_below(plan_below(3) ? usual : COUNT_OF(senders));

    *letter = (struct letter){.number = number,
                              .client = number % book.client_count,
                              .ghost = sender == 3,
                              .virus = plan_below(8) == 0,
                              .salt = plan_below(UINT64_MAX),
                              .due_us = plan_below(40) * 60 * US_PER_S};
    letter->size = (size_t)(plan_below(4) ? 200 + plan_below(2500)
                                          : 200 + plan_below(LETTER_BYTES_MOST - 1000));
    letter->spam = setting.spamd && !letter->virus && plan_below(6) == 0;
    if (sender == 2 && !setting.corp)
        letter->ghost = true;
    snprintf(letter->from, sizeof letter->from, "%s+%u@%s", senders[letter->ghost ? 3 : sender][0],
             number, senders[letter->ghost ? 3 : sender][1]);
    plan_wanted(letter);
    plan_milter(letter);
}

void letters_plan(uint64_t seed)
{
    plan_state = seed * UINT64_C(0xd1342543de82ef95) + 1;
    setting_draw();
    book.client_count = 1 + (unsigned)plan_below(CLIENTS_MOST);
    book.letter_count = 2 + (unsigned)plan_below(LETTERS_MOST - 2);
    for (unsigned i = 0; i < book.letter_count; i++)
        plan_letter(&book.letters[i], i);
}

enum { TEXT_MOST = LETTER_BYTES_MOST + 1000 };

static size_t print_header(const struct letter *letter, unsigned changes, char *into)
{
    const unsigned number = letter->number;
    size_t count = (size_t)snprintf(
        into, TEXT_MOST, "X-Letter: %u\r\nFrom: <%s>\r\nSubject: %s %u\r\n", number, letter->from,
        changes & CHANGE_SUBJECT ? "changed" : "letter", number);

    if (!(changes & CHANGE_DELETE))
        count += (size_t)snprintf(into + count, TEXT_MOST - count, "X-Salt: %016llx\r\n",
                                  (unsigned long long)letter->salt);
    if (changes & CHANGE_ADD)
        count += (size_t)snprintf(into + count, TEXT_MOST - count, "X-Milter-Added: letter %u\r\n",
                                  number);
    return count + (size_t)snprintf(into + count, TEXT_MOST - count, "\r\n");
}

/* Lines of letters, some of them with a dot in front, to the size that was planned. */
struct bytes letter_text(const struct letter *letter)
{
    static char text[TEXT_MOST];
    size_t count = print_header(letter, 0, text);

    if (letter->virus)
        count += (size_t)snprintf(text + count, sizeof text - count, "SIMULATED-VIRUS\r\n");
    for (uint64_t line = letter->salt; count < letter->size; line = line * 25 + 13) {
        const unsigned length = (unsigned)(line >> 40) % 70;

        if (line >> 60 == 0)
            text[count++] = '.';
        for (unsigned i = 0; i < length; i++)
            text[count++] = (char)('a' + (line >> (i % 32)) % 26);
        text[count++] = '\r';
        text[count++] = '\n';
    }
    count +=
        (size_t)snprintf(text + count, sizeof text - count, "end of letter %u\r\n", letter->number);
    return bytes_of(text, count);
}

struct bytes letter_text_changed(const struct letter *letter)
{
    static char text[TEXT_MOST];
    const unsigned changes = letter->milter.act == ACT_CHANGE ? letter->milter.changes : 0;
    const struct bytes plain = letter_text(letter);
    const struct bytes mark = BYTES_LITERAL("\r\n\r\n");
    const struct bytes body = bytes_skip(plain, bytes_find(plain, mark) + mark.count);
    size_t count = print_header(letter, changes, text);

    if (changes & CHANGE_BODY) {
        count += (size_t)snprintf(text + count, sizeof text - count,
                                  "The milter's words for letter %u\r\n", letter->number);
    } else {
        memcpy(text + count, body.at, body.count);
        count += body.count;
    }
    return bytes_of(text, count);
}

struct letter *letter_from(struct bytes path)
{
    struct bytes digits;
    uint64_t number = 0;

    bytes_cut(bytes_skip(path, bytes_find_byte(path, '+') + 1), '@', &digits);
    return bytes_to_u64(digits, &number) && number < book.letter_count ? &book.letters[number]
                                                                       : NULL;
}

bool letter_is_open(const struct letter *letter)
{
    for (unsigned i = 0; i < letter->wanted_count; i++)
        if (letter->fate[i] == WANTED_PENDING)
            return true;
    return false;
}

struct letter *letter_in(struct bytes content, struct bytes *rest)
{
    static const struct bytes mark = BYTES_LITERAL("X-Letter: ");
    const size_t at = bytes_find(content, mark);
    struct bytes line;
    uint64_t number = 0;

    *rest = bytes_skip(content, at);
    bytes_cut(bytes_skip(*rest, mark.count), '\n', &line);
    if (at == content.count || !bytes_to_u64(bytes_trim(line), &number) ||
        number >= book.letter_count)
        return NULL;
    return &book.letters[number];
}

/* ------------------------------------------------------------------ messages */

struct message_note *message_note(uint64_t id)
{
    for (unsigned i = 0; i < book.message_count; i++)
        if (book.messages[i].id == id)
            return &book.messages[i];
    CHECK(book.message_count < MESSAGES_MOST, "room for another message");
    struct message_note *note = &book.messages[book.message_count++];
    *note = (struct message_note){.id = id};
    return note;
}

static uint64_t id_after(struct bytes content, const char *mark)
{
    const struct bytes rest = bytes_skip(content, bytes_find(content, bytes_of_text(mark)));
    uint64_t id = 0;

    CHECK(rest.count > 0 && id_parse(bytes_slice(bytes_skip(rest, strlen(mark)), 0, 13), &id),
          "no id behind \"%s\" in %.*s", mark, BYTES_PRINT(bytes_slice(content, 0, 600)));
    return id;
}

/* ------------------------------------------------------------------ what arrived */

static void note_failure(struct message_note *message, uint64_t own_id, enum place place)
{
    tale_add(message->id, -1, "the sender was told that %s failed", place_addresses[place]);
    TELL(message->bounce[place] == 0 || message->bounce[place] == own_id, (int)message->letter,
         "two notifications that %s failed", place_addresses[place]);
    message->bounce[place] = own_id;
}

/* RFC 3464: a part of fields for each recipient. */
static void notification_arrived(struct bytes content)
{
    const uint64_t own_id = id_after(content, "Message-ID: <");
    struct message_note *message = message_note(id_after(content, "X-Holdfast-Message: "));
    enum place place = PLACE_COUNT;

    for (struct bytes rest = content; rest.count > 0;) {
        struct bytes line;

        rest = bytes_cut(rest, '\n', &line);
        line = bytes_trim(line);
        if (bytes_starts_with(line, BYTES_LITERAL("Final-Recipient: rfc822; ")))
            CHECK(place_named(bytes_skip(line, 25), &place), "a notification about %.*s",
                  BYTES_PRINT(line));
        if (bytes_equal_text(line, "Action: failed")) {
            CHECK(place < PLACE_COUNT, "a notification without a recipient");
            note_failure(message, own_id, place);
            if (planted == PLANT_NOTIFIED)
                note_failure(message, own_id + 1, place);
        }
    }
}

static bool same_text(struct bytes got, struct bytes sent)
{
    size_t at = 0;

    for (size_t i = 0; i < sent.count; i++) {
        if (at < got.count && got.at[at] == sent.at[i])
            at++;
        else if (sent.at[i] != '\r')
            return false;
    }
    return at == got.count;
}

static unsigned count_of(struct bytes text, const char *words)
{
    unsigned count = 0;

    for (size_t at; (at = bytes_find(text, bytes_of_text(words))) < text.count; count++)
        text = bytes_skip(text, at + 1);
    return count;
}

/* Every change that the milter made, once; or none, and a field that says why. */
static void check_content(const struct letter *letter, struct bytes above, struct bytes text)
{
    const bool passed_over = count_of(above, "X-Holdfast-Filter: changer; not scanned") > 0;
    const bool changed = letter->milter.act == ACT_CHANGE && !passed_over;
    const struct bytes wanted = changed ? letter_text_changed(letter) : letter_text(letter);
    const unsigned inserted = changed && letter->milter.changes & CHANGE_INSERT;

    TELL(same_text(text, wanted), (int)letter->number,
         "letter %u arrived with other bytes: %zu of %zu", letter->number, text.count,
         wanted.count);
    TELL(count_of(above, "X-Milter-Inserted: letter ") == inserted, (int)letter->number,
         "letter %u: the milter's field stands there %u times", letter->number,
         count_of(above, "X-Milter-Inserted: letter "));
    TELL(!setting.milter || letter->milter_passed || passed_over, (int)letter->number,
         "a letter was delivered that the milter has not let pass");
    TELL(!passed_over || setting.milter_accepts, (int)letter->number, "the milter was passed over");
    TELL(count_of(above, "X-Spam-Status: No, ") == setting.spamd &&
             count_of(above, "not to be taken") == 0,
         (int)letter->number, "letter %u: what spamd said is not in it", letter->number);
}

static void letter_arrived(struct bytes content, enum place place, bool local)
{
    struct bytes rest;
    struct letter *letter = letter_in(content, &rest);

    CHECK(letter != NULL, "nobody sent this: %.*s", BYTES_PRINT(bytes_slice(content, 0, 400)));
    struct message_note *message = message_note(id_after(content, " id "));
    TELL(!message->has_letter || message->letter == letter->number, (int)letter->number,
         "two letters under one id");
    message->has_letter = true;
    message->letter = letter->number;
    tale_add(message->id, (int)letter->number, "a copy for %s%s", place_addresses[place],
             local ? " is in the mailbox" : " at the next hop");
    check_content(letter, bytes_slice(content, 0, content.count - rest.count), rest);
    TELL(!letter->virus, (int)letter->number, "an infected letter was delivered");
    TELL(!letter->spam, (int)letter->number, "spam was delivered");
    TELL(letter->judged_clean, (int)letter->number, "a letter was delivered unscanned");
    TELL(!setting.spamd || letter->spamd_passed, (int)letter->number,
         "a letter was delivered that spamd has not judged");
    TELL(!message->held || message->released, (int)letter->number,
         "a letter in quarantine was delivered");
    TELL(!message->discarded, (int)letter->number, "a letter was delivered that was discarded");
    TELL(local || !message->settled[place], (int)letter->number,
         "letter %u was sent to %s again after its delivery was recorded", letter->number,
         place_addresses[place]);
    message->copies[place]++;
    message->lives_with_copy[place] |= UINT32_C(1) << book.life;
}

/* See oracles.c. */
static void plant_in_letter(struct bytes content, enum place place, bool local)
{
    static char copy[CONTENT_MOST];

    if (planted == PLANT_FLIP && content.count < sizeof copy) {
        memcpy(copy, content.at, content.count);
        copy[content.count - 5] ^= 1;
        letter_arrived(bytes_of(copy, content.count), place, local);
    }
    struct message_note *message = message_note(id_after(content, " id "));
    message->settled[place] |= planted == PLANT_AGAIN && message->copies[place] > 0;
}

void parcel_arrived(struct bytes content, enum place place, bool local)
{
    if (bytes_find(content, BYTES_LITERAL("X-Holdfast-Message: ")) < content.count)
        notification_arrived(content);
    else {
        plant_in_letter(content, place, local);
        letter_arrived(content, place, local);
    }
}

/* ------------------------------------------------------------------ the tale */

enum { TALE_LINES = 6000, TALE_TEXT = 200 };
static struct tale_line {
    uint64_t at_us, message;
    unsigned life;
    int letter;
    char text[TALE_TEXT];
} tale[TALE_LINES];
static uint64_t tale_count;

void tale_clear(void)
{
    tale_count = 0;
}

void tale_add(uint64_t message, int letter, const char *format, ...)
{
    struct tale_line *line = &tale[tale_count++ % TALE_LINES];
    va_list arguments;

    *line = (struct tale_line){
        .at_us = clock_now_us(), .message = message, .life = book.life, .letter = letter};
    va_start(arguments, format);
    vsnprintf(line->text, sizeof line->text, format, arguments);
    va_end(arguments);
    for (char *at = line->text; *at; at++)
        if ((unsigned char)*at < ' ')
            *at = ' ';
    if (scenario_trace)
        fprintf(stderr, "%14llu %s\n", (unsigned long long)line->at_us, line->text);
}

static bool message_is_of(uint64_t id, int letter)
{
    for (uint64_t i = 0; i < MIN_OF(tale_count, (uint64_t)TALE_LINES); i++)
        if (tale[i].message == id && tale[i].letter == letter)
            return true;
    return false;
}

/* Lines of no letter and no message are faults. */
static bool tale_concerns(const struct tale_line *line, int letter)
{
    if (letter == TALE_ALL || line->letter == letter)
        return true;
    return line->letter < 0 && (line->message == 0 || message_is_of(line->message, letter));
}

void tale_tell(int letter)
{
    const uint64_t first = tale_count > TALE_LINES ? tale_count - TALE_LINES : 0;
    char id[ID_TEXT_MAX];

    fprintf(stderr, "the tale of letter %d in seed %llu:\n", letter,
            (unsigned long long)scenario_seed);
    for (uint64_t i = first; i < tale_count; i++) {
        const struct tale_line *line = &tale[i % TALE_LINES];

        if (!tale_concerns(line, letter))
            continue;
        fprintf(stderr, "  life %u %10.3f s  %-13s %s\n", line->life,
                (double)line->at_us / (double)US_PER_S,
                line->message ? id_print(line->message, id, sizeof id) : "", line->text);
    }
}
