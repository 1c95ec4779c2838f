/*
 * srs: the Sender Rewriting Scheme. What an alias forwards to elsewhere leaves with a sender of
 * ours, or SPF would fail there; a notification to that sender comes back to us and is led to the
 * original one. Both forms of the scheme are spoken: SRS0 for a sender as it came, SRS1 for one
 * that somebody else rewrote before.
 *
 *   SRS0=HASH=DAY=DOMAIN=LOCAL@ours        from LOCAL@DOMAIN
 *   SRS1=HASH=FIRST=(rest of SRS0)@ours    from SRS0(rest)@FIRST, or SRS1=...=FIRST=(rest)@second
 *
 * HASH is a MAC over all behind it, in small letters since some hosts fold case. DAY is the day
 * modulo 1024: an address is of use for a bounded time, and only to the null sender (policy sees to
 * that), so it is no way to send through us. The first secret of the file makes addresses, every
 * one is taken: a new secret goes on top, and the old one away when its addresses have run out.
 */
#include <string.h>

#include "crypto/crypto.h"
#include "directory/source.h"

enum {
    SECRET_LEAST = 16,
    HASH_LETTERS = 6, /* 30 bits; each wrong guess costs a session an error */
    TAG_COUNT = 4,    /* "SRS0" */
};

static const struct bytes SECRETS_NAME = BYTES_LITERAL("secrets");
static const char BASE32[] = "abcdefghijklmnopqrstuvwxyz234567";

/* ------------------------------------------------------------------ secrets */

/* A secret a line; blank lines and comments aside. */
void srs_secrets_parse(struct snapshot *snapshot, struct bytes text)
{
    struct srs_secrets *secrets = ARENA_NEW(&snapshot->arena, struct srs_secrets);

    if (!secrets || !name_table_open(&snapshot->names, &snapshot->arena, 1))
        return; /* the arena's sticky flag tells */
    for (unsigned number = 1; text.count > 0; number++) {
        struct bytes line;

        text = bytes_cut(text, '\n', &line);
        line = bytes_trim(line);
        if (line.count == 0 || line.at[0] == '#')
            continue;
        if (line.count < SECRET_LEAST || secrets->count == SRS_SECRETS_MAX) {
            snapshot_malformed(snapshot, number,
                               line.count < SECRET_LEAST ? "a secret has at least 16 characters"
                                                         : "more than 16 secrets");
            return;
        }
        secrets->secrets[secrets->count++] = line;
    }
    if (secrets->count == 0)
        snapshot_malformed(snapshot, 1, "no secret in it");
    else if (!name_table_add(&snapshot->names, SECRETS_NAME, secrets))
        snapshot_malformed(snapshot, 1, "out of memory");
}

/* FOUND with *held, to be released, or FAILED. Sleeps. */
static struct lookup secrets_take(struct directory *directory, struct arena *arena,
                                  struct snapshot **held, const struct srs_secrets **secrets)
{
    *held = cached_file_take(&directory->srs_secrets, 0);
    if (!*held)
        return lookup_failed(LOOKUP_REASON_UNAVAILABLE,
                             BYTES_LITERAL("the file of SRS secrets could not be read in time"));
    if ((*held)->state.status != LOOKUP_FOUND)
        return lookup_failed((*held)->state.reason, arena_copy(arena, (*held)->state.detail));
    *secrets = name_table_find(&(*held)->names, SECRETS_NAME);
    return *secrets ? lookup_found()
                    : lookup_failed(LOOKUP_REASON_MISCONFIGURED, BYTES_LITERAL("no SRS secrets"));
}

/* ------------------------------------------------------------------ the hash */

/* Over the form and the text in small letters. False: no memory. */
static bool hash_make(struct bytes secret, char kind, struct bytes text, char hash[HASH_LETTERS])
{
    CLEANUP(buffer_free) struct buffer lower = BUFFER_WITH_LIMIT(4 * KIB);
    uint8_t mac[SECRET_KEY_BYTES];

    buffer_add_byte(&lower, (uint8_t)kind);
    for (size_t i = 0; i < text.count; i++)
        buffer_add_byte(&lower, ascii_lower(text.at[i]));
    if (lower.failed || !secret_mac(secret, buffer_view(&lower), mac))
        return false;
    for (unsigned i = 0; i < HASH_LETTERS; i++)
        hash[i] = BASE32[mac[i] % 32];
    return true;
}

static bool hash_is_right(const struct srs_secrets *secrets, char kind, struct bytes said,
                          struct bytes text)
{
    char lower[HASH_LETTERS], made[HASH_LETTERS];
    bool right = false;

    if (said.count != HASH_LETTERS)
        return false;
    for (unsigned i = 0; i < HASH_LETTERS; i++)
        lower[i] = (char)ascii_lower(said.at[i]);
    for (unsigned i = 0; i < secrets->count; i++)
        if (hash_make(secrets->secrets[i], kind, text, made) &&
            secret_equal(bytes_of(lower, sizeof lower), bytes_of(made, sizeof made)))
            right = true;
    return right;
}

/* ------------------------------------------------------------------ the parts of an address */

/* Which of the two it is: '0', '1', or 0 for neither. The sign behind the tag is anybody's choice.
 */
static char srs_kind(struct bytes local)
{
    if (local.count < TAG_COUNT + 2 || !bytes_starts_with_nocase(local, BYTES_LITERAL("SRS")) ||
        !strchr("=+-", local.at[TAG_COUNT]))
        return 0;
    return local.at[3] == '0' || local.at[3] == '1' ? (char)local.at[3] : 0;
}

/* "A=B" -> "A", and *rest "B"; false when there is no '=' or nothing before it. */
static bool part_cut(struct bytes *rest, struct bytes *part)
{
    const size_t at = bytes_find_byte(*rest, '=');

    if (at == 0 || at == rest->count)
        return false;
    *part = bytes_slice(*rest, 0, at);
    *rest = bytes_skip(*rest, at + 1);
    return true;
}

static unsigned day_now(void)
{
    return (unsigned)(clock_wall_us() / (int64_t)(86400 * US_PER_S)) % SRS_DAYS;
}

/* Two letters; -1: no day. */
static int day_read(struct bytes text)
{
    int day = 0;

    if (text.count != 2)
        return -1;
    for (size_t i = 0; i < text.count; i++) {
        const char *at = strchr(BASE32, ascii_lower(text.at[i]));
        if (!at || *at == '\0')
            return -1;
        day = 32 * day + (int)(at - BASE32);
    }
    return day;
}

static bool day_is_fresh(struct srs_time time, struct bytes text)
{
    const int day = day_read(text);

    return day >= 0 && (time.day + SRS_DAYS - (unsigned)day) % SRS_DAYS <= time.most;
}

/* ------------------------------------------------------------------ forward */

/* What the hash covers; the address is "SRS?=" HASH "=" and this. Empty: no memory. */
static struct bytes forward_body(struct arena *arena, struct address sender, unsigned day,
                                 char *kind)
{
    struct bytes rest = bytes_skip(sender.local, TAG_COUNT), hash, first;

    *kind = '1';
    switch (srs_kind(sender.local)) {
    case '0':
        return arena_print(arena, "%.*s=%.*s", BYTES_PRINT(sender.domain), BYTES_PRINT(rest));
    case '1':
        rest = bytes_skip(rest, 1);
        if (part_cut(&rest, &hash) && part_cut(&rest, &first))
            return arena_print(arena, "%.*s=%.*s", BYTES_PRINT(first), BYTES_PRINT(rest));
        break; /* it only looks like one */
    default:
        break;
    }
    *kind = '0';
    return arena_print(arena, "%c%c=%.*s=%.*s", BASE32[day / 32], BASE32[day % 32],
                       BYTES_PRINT(sender.domain), BYTES_PRINT(sender.local));
}

static bool srs_is_on(const struct directory *directory)
{
    const char *domain = directory->config->forward.srs_domain;

    return domain && domain[0];
}

struct bytes srs_encode(struct arena *arena, const struct srs_secrets *secrets,
                        struct address sender, unsigned day)
{
    char hash[HASH_LETTERS], kind = 0;
    const struct bytes body = forward_body(arena, sender, day % SRS_DAYS, &kind);

    if (arena->failed || !hash_make(secrets->secrets[0], kind, body, hash))
        return BYTES_EMPTY;
    return arena_print(arena, "SRS%c=%.*s=%.*s", kind, HASH_LETTERS, hash, BYTES_PRINT(body));
}

struct lookup directory_srs_forward(struct directory *directory, struct arena *arena,
                                    struct address sender, struct address *rewritten)
{
    struct snapshot *held = NULL;
    const struct srs_secrets *secrets = NULL;

    *rewritten = sender;
    if (!srs_is_on(directory) || address_is_null(sender) ||
        config_find_domain(directory->config, sender.domain))
        return lookup_found();
    struct lookup lookup = secrets_take(directory, arena, &held, &secrets);

    if (lookup.status == LOOKUP_FOUND) {
        *rewritten = (struct address){srs_encode(arena, secrets, sender, day_now()),
                                      bytes_of_text(directory->config->forward.srs_domain)};
        if (arena->failed || rewritten->local.count == 0)
            lookup = lookup_failed(LOOKUP_REASON_OVERLOADED, BYTES_LITERAL("out of memory"));
    }
    snapshot_release(held);
    return lookup;
}

/* ------------------------------------------------------------------ back */

bool directory_is_srs(const struct directory *directory, struct address address)
{
    return srs_is_on(directory) && srs_kind(address.local) != 0 &&
           bytes_equal_text_nocase(address.domain, directory->config->forward.srs_domain);
}

static struct lookup not_ours(const char *why)
{
    struct lookup lookup = lookup_absent();

    lookup.detail = bytes_of_text(why);
    return lookup;
}

static struct lookup reverse_zero(struct srs_time time, struct bytes body, struct address *original)
{
    struct bytes day, domain;

    if (!part_cut(&body, &day) || !part_cut(&body, &domain) || body.count == 0 ||
        !domain_is_valid(domain))
        return not_ours("no SRS address of ours");
    if (!day_is_fresh(time, day))
        return not_ours("the SRS address is too old");
    *original = (struct address){body, domain};
    return lookup_found();
}

/* To whoever rewrote it first: he checks how old it is. */
static struct lookup reverse_one(struct arena *arena, struct bytes body, struct address *original)
{
    struct bytes first;

    if (!part_cut(&body, &first) || body.count < 2 || !domain_is_valid(first))
        return not_ours("no SRS address of ours");
    *original = (struct address){arena_print(arena, "SRS0%.*s", BYTES_PRINT(body)), first};
    return lookup_found();
}

struct lookup srs_decode(struct arena *arena, const struct srs_secrets *secrets, struct bytes local,
                         struct srs_time time, struct address *original)
{
    struct bytes hash = BYTES_EMPTY, body = bytes_skip(local, TAG_COUNT + 1);
    const char kind = srs_kind(local);

    *original = (struct address){BYTES_EMPTY, BYTES_EMPTY};
    if (kind == 0 || !part_cut(&body, &hash) || !hash_is_right(secrets, kind, hash, body))
        return not_ours("the SRS address is not one of ours");
    return kind == '0' ? reverse_zero(time, body, original) : reverse_one(arena, body, original);
}

struct lookup srs_reverse(struct directory *directory, struct arena *arena, struct address address,
                          struct address *original)
{
    struct snapshot *held = NULL;
    const struct srs_secrets *secrets = NULL;
    const struct srs_time time = {day_now(),
                                  directory->config->forward.srs_max_age_us / (86400 * US_PER_S)};
    struct lookup lookup = secrets_take(directory, arena, &held, &secrets);

    *original = (struct address){BYTES_EMPTY, BYTES_EMPTY};
    if (lookup.status == LOOKUP_FOUND)
        lookup = srs_decode(arena, secrets, address.local, time, original);
    snapshot_release(held);
    return lookup;
}
