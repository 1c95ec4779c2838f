/*
 * The player: a line of the talk after the other; what the client says is collected until the talk
 * waits for the server.
 */
#include "talk_player.h"

#include <string.h>

enum { PATIENCE_SECONDS = 60, TALK_BYTES = 1 << 20, HEARD_BYTES = 64 * 1024 };

struct player {
    const struct talk_house *house;
    struct stream *stream;
    struct buffer saying; /* not yet sent */
    struct buffer heard;  /* not yet read */
    struct buffer reply;  /* the last one, whole */
    bool byte_by_byte;
    char why[256];
};

MUST_USE static bool player_fails(struct player *player, const char *what, struct bytes seen)
{
    snprintf(player->why, sizeof player->why, "%s: \"%.*s\"", what,
             BYTES_PRINT(bytes_slice(seen, 0, 160)));
    return false;
}

/* ------------------------------------------------------------------ what the client says */

static void add_escape(struct buffer *into, struct bytes *text)
{
    static const char letters[] = "rnt0\\", octets[] = "\r\n\t\0\\";
    const char *at = text->count > 1 ? memchr(letters, text->at[1], 5) : NULL;

    if (at) {
        buffer_add_byte(into, (uint8_t)octets[at - letters]);
        *text = bytes_skip(*text, 2);
    } else if (text->count >= 4 && text->at[1] == 'x') {
        buffer_add_byte(
            into, (uint8_t)(ascii_hex_value(text->at[2]) * 16 + ascii_hex_value(text->at[3])));
        *text = bytes_skip(*text, 4);
    } else {
        *text = bytes_skip(*text, 1);
    }
}

static void add_plain(struct buffer *into, struct bytes text)
{
    while (text.count > 0) {
        if (text.at[0] == '\\') {
            add_escape(into, &text);
            continue;
        }
        buffer_add_byte(into, text.at[0]);
        text = bytes_skip(text, 1);
    }
}

/* {N*TEXT} repeats; everything else is plain or escaped. */
static void add_text(struct buffer *into, struct bytes text)
{
    while (text.count > 0) {
        const size_t open = bytes_find_byte(text, '{');
        const size_t star = bytes_find_byte(text, '*'), close = bytes_find_byte(text, '}');
        uint64_t times = 0;

        add_plain(into, bytes_slice(text, 0, open));
        if (open == text.count)
            return;
        if (star < close && close < text.count &&
            bytes_to_u64(bytes_slice(text, open + 1, star - open - 1), &times)) {
            for (uint64_t i = 0; i < times; i++)
                add_plain(into, bytes_slice(text, star + 1, close - star - 1));
            text = bytes_skip(text, close + 1);
        } else {
            buffer_add_byte(into, '{');
            text = bytes_skip(text, open + 1);
        }
    }
}

static void player_hang_up(struct player *player)
{
    stream_close(player->stream);
    player->stream = NULL;
    buffer_clear(&player->heard);
    buffer_clear(&player->saying);
}

MUST_USE static bool player_connect(struct player *player, const char *name)
{
    const struct endpoint *to = player->house->address(player->house->argument, name);

    player_hang_up(player);
    if (!to)
        return player_fails(player, "no such listener", bytes_of_text(name));
    const struct io_result dialled =
        stream_dial(to, NULL, deadline_in(PATIENCE_SECONDS * US_PER_S), &player->stream);
    if (dialled.status != IO_OK)
        return player_fails(player, "cannot connect", bytes_of_text(io_result_text(dialled)));
    return true;
}

/* A write that fails is no failure: the server may close early, and what it said is read next. */
MUST_USE static bool player_send(struct player *player)
{
    struct bytes rest = buffer_view(&player->saying);
    const size_t piece = player->byte_by_byte ? 1 : rest.count;

    if (!player->stream && !player_connect(player, "smtp"))
        return false;
    while (rest.count > 0) {
        const struct io_result written = stream_write(player->stream, bytes_slice(rest, 0, piece),
                                                      deadline_in(PATIENCE_SECONDS * US_PER_S));
        if (written.status != IO_OK)
            break;
        rest = bytes_skip(rest, piece);
    }
    buffer_clear(&player->saying);
    return true;
}

/* ------------------------------------------------------------------ what the server says */

MUST_USE static bool player_hear(struct player *player)
{
    uint8_t piece[4096];
    const struct io_result read = stream_read(player->stream, (struct span){piece, sizeof piece},
                                              deadline_in(PATIENCE_SECONDS * US_PER_S));

    if (read.status != IO_OK)
        return player_fails(player, io_result_text(read), buffer_view(&player->heard));
    buffer_add(&player->heard, bytes_of(piece, read.count));
    return !player->heard.failed;
}

/* Moves one reply, every line, from `heard` to `reply`; its last line into *last. */
MUST_USE static bool player_reply(struct player *player, struct bytes *last)
{
    buffer_clear(&player->reply);
    for (;;) {
        const struct bytes heard = buffer_view(&player->heard);
        const size_t end = bytes_find(heard, BYTES_LITERAL("\r\n"));
        if (end == heard.count) {
            if (!player_hear(player))
                return false;
            continue;
        }
        const size_t before = player->reply.count;
        buffer_add(&player->reply, bytes_slice(heard, 0, end + 2));
        buffer_drop_front(&player->heard, end + 2);
        *last = bytes_slice(bytes_skip(buffer_view(&player->reply), before), 0, end);
        if (last->count < 4 || last->at[3] != '-')
            return true;
    }
}

MUST_USE static bool player_expect(struct player *player, struct bytes text)
{
    struct bytes last = BYTES_EMPTY;

    if (!player_send(player) || !player_reply(player, &last))
        return false;
    return bytes_starts_with(last, text) || player_fails(player, "read", last);
}

MUST_USE static bool player_expect_end(struct player *player)
{
    uint8_t octet[1];

    if (player->heard.count > 0)
        return player_fails(player, "more was said", buffer_view(&player->heard));
    const struct io_result read = stream_read(player->stream, (struct span){octet, 1},
                                              deadline_in(PATIENCE_SECONDS * US_PER_S));
    if (read.status == IO_OK || read.status == IO_TIMEOUT)
        return player_fails(player, "not closed", bytes_of_text(io_result_text(read)));
    return true;
}

/* ------------------------------------------------------------------ the lines of a talk */

MUST_USE static bool player_contains(struct player *player, struct bytes text, bool wanted)
{
    const struct bytes reply = buffer_view(&player->reply);

    if ((bytes_find(reply, text) < reply.count) == wanted)
        return true;
    return player_fails(player, wanted ? "is not in the reply" : "is in the reply", reply);
}

MUST_USE static bool player_directive(struct player *player, struct bytes line)
{
    struct bytes word = BYTES_EMPTY;
    const struct bytes argument = bytes_cut(line, ' ', &word);
    char name[32];

    snprintf(name, sizeof name, "%.*s", BYTES_PRINT(bytes_trim(argument)));
    if (bytes_equal_text(word, "connect"))
        return player_connect(player, name[0] ? name : "smtp");
    if (!player_send(player))
        return false;
    if (bytes_equal_text(word, "closed"))
        return player_expect_end(player);
    if (bytes_equal_text(word, "bytes"))
        player->byte_by_byte = strcmp(name, "off") != 0;
    else
        return player_fails(player, "no such directive", word);
    return true;
}

MUST_USE static bool player_step(struct player *player, struct bytes line)
{
    const struct bytes mark = bytes_slice(line, 0, 2), text = bytes_skip(line, 3);

    if (bytes_equal_text(mark, "C:") || bytes_equal_text(mark, "C+")) {
        add_text(&player->saying, text);
        if (mark.at[1] == ':')
            buffer_add_text(&player->saying, "\r\n");
        return !player->saying.failed;
    }
    if (bytes_equal_text(mark, "S:"))
        return player_expect(player, text);
    if (bytes_equal_text(mark, "S?") || bytes_equal_text(mark, "S!"))
        return player_contains(player, text, mark.at[1] == '?');
    if (line.at[0] == '@')
        return bytes_starts_with(line, BYTES_LITERAL("@option ")) ||
               player_directive(player, bytes_skip(line, 1));
    return player_fails(player, "not a line of a talk", line);
}

/* Options stand on a line of their own, near the top. */
static bool talk_has_option(struct bytes text, const char *option)
{
    while (text.count > 0) {
        struct bytes line = BYTES_EMPTY;
        text = bytes_cut(text, '\n', &line);
        if (bytes_starts_with(line, BYTES_LITERAL("@option ")) &&
            bytes_find(line, bytes_of_text(option)) < line.count)
            return true;
    }
    return false;
}

MUST_USE static bool player_play(struct player *player, struct bytes text, unsigned *number)
{
    while (text.count > 0) {
        struct bytes line = BYTES_EMPTY;
        text = bytes_cut(text, '\n', &line);
        ++*number;
        if (line.count == 0 || line.at[0] == '#')
            continue;
        if (!player_step(player, line))
            return false;
    }
    return player->saying.count == 0 || player_send(player);
}

enum talk_result talk_play(struct bytes text, const struct talk_house *house, bool byte_by_byte,
                           struct span why)
{
    struct player player = {
        .house = house,
        .byte_by_byte = byte_by_byte,
        .saying = BUFFER_WITH_LIMIT(TALK_BYTES),
        .heard = BUFFER_WITH_LIMIT(HEARD_BYTES),
        .reply = BUFFER_WITH_LIMIT(HEARD_BYTES),
    };
    unsigned number = 0;

    if (talk_has_option(text, "socket") || (byte_by_byte && talk_has_option(text, "whole"))) {
        snprintf((char *)why.at, why.count, "needs a real socket, or not byte by byte");
        return TALK_SKIPPED;
    }
    const bool passed = player_play(&player, text, &number);
    player_hang_up(&player);
    snprintf((char *)why.at, why.count, "line %u: %s", number, player.why);
    buffer_free(&player.saying);
    buffer_free(&player.heard);
    buffer_free(&player.reply);
    return passed ? TALK_PASSED : TALK_FAILED;
}

bool talk_load(const char *path, struct buffer *into)
{
    uint8_t piece[4096];
    FILE *file = fopen(path, "rb");
    size_t count = 0;

    if (!file)
        return false;
    while ((count = fread(piece, 1, sizeof piece, file)) > 0)
        buffer_add(into, bytes_of(piece, count));
    const bool whole = !ferror(file) && !into->failed;
    return fclose(file) == 0 && whole;
}
