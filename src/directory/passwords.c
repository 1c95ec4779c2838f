/*
 * passwords: is this the user's password? Hashes of crypt(5) and SCRAM keys, computed in the worker
 * pool, few at once; or, of users in LDAP, what a bind as the user says.
 *
 * Sleeps: on the directory and the pool. Fails: FAILED when the directory did or when too many
 * others wait; ABSENT is said only by a source that answered. Secrets are wiped where they were.
 */
#include <crypt.h>
#include <string.h>

#include "crypto/crypto.h"
#include "directory/source.h"

enum {
    AT_ONCE = 2,
    PATIENCE_SECONDS = 20,
    PASSWORD_MAX = 511, /* CRYPT_MAX_PASSPHRASE_SIZE without its NUL */
    ITERATIONS_MAX = 1000000,
    SCRAM_KEY_BYTES = 32,
};

static const struct bytes SCRAM_PREFIX = BYTES_LITERAL("SCRAM-SHA-256$");
/* Of no password that anybody knows. */
static const char FIRST_DECOY[] =
    "$y$j9T$holdfastdecoy.........$0123456789012345678901234567890123456789012";

/* ------------------------------------------------------------------ SCRAM keys as text */

bool directory_parse_scram(struct arena *arena, struct bytes text, struct directory_scram *scram)
{
    struct bytes iterations, salt, stored;
    uint64_t count = 0;

    *scram = (struct directory_scram){0};
    if (!bytes_starts_with(text, SCRAM_PREFIX))
        return false;
    text = bytes_cut(bytes_skip(text, SCRAM_PREFIX.count), ':', &iterations);
    text = bytes_cut(text, '$', &salt);
    text = bytes_cut(text, ':', &stored);
    if (!bytes_to_u64(iterations, &count) || count == 0 || count > ITERATIONS_MAX)
        return false;
    scram->iterations = (unsigned)count;
    return base64_decode(arena, salt, &scram->salt) && scram->salt.count > 0 &&
           base64_decode(arena, stored, &scram->stored_key) &&
           scram->stored_key.count == SCRAM_KEY_BYTES &&
           base64_decode(arena, text, &scram->server_key) &&
           scram->server_key.count == SCRAM_KEY_BYTES;
}

/* ------------------------------------------------------------------ the desk */

void password_desk_open(struct password_desk *desk)
{
    pthread_mutex_init(&desk->lock, NULL);
    snprintf(desk->decoy, sizeof desk->decoy, "%s", FIRST_DECOY);
}

void password_desk_close(struct password_desk *desk)
{
    pthread_mutex_destroy(&desk->lock);
}

static bool desk_try(struct password_desk *desk)
{
    pthread_mutex_lock(&desk->lock);
    const bool free_place = desk->busy < AT_ONCE;
    desk->busy += free_place ? 1 : 0;
    pthread_mutex_unlock(&desk->lock);
    return free_place;
}

/* False when it takes too long. Sleeps. */
static bool desk_enter(struct password_desk *desk)
{
    const uint64_t deadline = deadline_in(PATIENCE_SECONDS * US_PER_S);
    struct waiter waiter;
    bool entered;

    waitlist_join(&desk->freed, &waiter);
    while (!(entered = desk_try(desk)))
        if (fiber_park(deadline) != IO_OK)
            break;
    waitlist_leave(&desk->freed, &waiter);
    return entered;
}

static void desk_leave(struct password_desk *desk)
{
    pthread_mutex_lock(&desk->lock);
    desk->busy--;
    pthread_mutex_unlock(&desk->lock);
    waitlist_wake_one(&desk->freed);
}

/* What an unknown user's password is compared with: like the last known one's, it costs as much. */
static const char *desk_decoy(struct password_desk *desk, struct arena *arena)
{
    pthread_mutex_lock(&desk->lock);
    const char *decoy = arena_text(arena, bytes_of_text(desk->decoy));
    pthread_mutex_unlock(&desk->lock);
    return decoy;
}

static void desk_learn(struct password_desk *desk, const char *hash)
{
    pthread_mutex_lock(&desk->lock);
    snprintf(desk->decoy, sizeof desk->decoy, "%s", hash);
    pthread_mutex_unlock(&desk->lock);
}

/* ------------------------------------------------------------------ comparing, in the pool */

enum comparison { COMPARED_BROKEN = 0, COMPARED_SAME, COMPARED_OTHER };

struct compare {
    const char *password, *hash;
    struct directory_scram scram; /* when the hash is one */
    bool is_scram;
    enum comparison result;
};

static enum comparison compare_crypt(const struct compare *compare)
{
    struct crypt_data *data = calloc(1, sizeof *data);
    const char *made =
        data ? crypt_rn(compare->password, compare->hash, data, (int)sizeof *data) : NULL;
    enum comparison result = COMPARED_BROKEN;

    if (made)
        result = secret_equal(bytes_of_text(made), bytes_of_text(compare->hash)) ? COMPARED_SAME
                                                                                 : COMPARED_OTHER;
    if (data)
        explicit_bzero(data, sizeof *data);
    free(data);
    return result;
}

static enum comparison compare_scram(const struct compare *compare)
{
    uint8_t salted[SCRAM_KEY_BYTES], client[SCRAM_KEY_BYTES], stored[SCRAM_KEY_BYTES];
    struct digest *digest = digest_open(DIGEST_SHA256);
    enum comparison result = COMPARED_BROKEN;

    if (digest &&
        secret_derive(bytes_of_text(compare->password), compare->scram.salt,
                      compare->scram.iterations, salted) &&
        secret_mac(bytes_of(salted, sizeof salted), BYTES_LITERAL("Client Key"), client)) {
        digest_add(digest, bytes_of(client, sizeof client));
        if (digest_finish(digest, (struct span){stored, sizeof stored}) == sizeof stored)
            result = secret_equal(bytes_of(stored, sizeof stored), compare->scram.stored_key)
                         ? COMPARED_SAME
                         : COMPARED_OTHER;
    }
    digest_close(&digest);
    explicit_bzero(salted, sizeof salted);
    explicit_bzero(client, sizeof client);
    return result;
}

static void compare_in_pool(void *argument)
{
    struct compare *compare = argument;

    compare->result = compare->is_scram ? compare_scram(compare) : compare_crypt(compare);
}

/* ------------------------------------------------------------------ the check */

/* The server that checks the passwords of this domain's users; NULL: we have their hashes. */
static struct remote *logins_of(struct directory *directory, struct address address)
{
    const struct directory_domain *domain = directory_domain_of(directory, address);

    return domain ? domain->users.logins : NULL;
}

/* The user's keys or hash; none for one who cannot log in. Tables often name crypt's scheme. */
static struct bytes user_secret(const struct directory_user *user)
{
    static const struct bytes scheme = BYTES_LITERAL("{CRYPT}");
    struct bytes hash = user->password;

    if (user->flags & DIRECTORY_DISABLED)
        return BYTES_EMPTY;
    if (bytes_starts_with_nocase(hash, scheme))
        hash = bytes_skip(hash, scheme.count);
    if (hash.count > 0)
        return hash.at[0] == '!' || hash.at[0] == '*' ? BYTES_EMPTY : hash;
    return user->scram;
}

static bool password_is_usable(struct bytes password)
{
    return password.count > 0 && password.count <= PASSWORD_MAX &&
           bytes_find_byte(password, '\0') == password.count;
}

/* Sleeps. */
static struct lookup compare_run(struct password_desk *desk, struct compare *compare)
{
    if (!desk_enter(desk))
        return lookup_failed(LOOKUP_REASON_OVERLOADED,
                             BYTES_LITERAL("too many logins at the same time"));
    const enum io_status ran = work_run(compare_in_pool, compare);
    desk_leave(desk);
    if (ran != IO_OK)
        return lookup_failed(LOOKUP_REASON_OVERLOADED,
                             BYTES_LITERAL("the password's check failed"));
    switch (compare->result) {
    case COMPARED_SAME:
        return lookup_found();
    case COMPARED_OTHER:
        return lookup_absent();
    case COMPARED_BROKEN:
        break;
    }
    return lookup_failed(LOOKUP_REASON_MISCONFIGURED,
                         BYTES_LITERAL("the user's password hash cannot be used"));
}

/* Sleeps. */
static struct lookup password_check(struct directory *directory, struct arena *arena,
                                    struct bytes secret, struct bytes password)
{
    struct password_desk *desk = &directory->passwords;
    const bool known = secret.count > 0 && secret.count < PASSWORD_HASH_MAX;
    char *plain = arena_text(arena, password_is_usable(password) ? password : BYTES_EMPTY);
    struct compare compare = {.password = plain,
                              .hash = known ? arena_text(arena, secret) : desk_decoy(desk, arena)};

    if (!plain || !compare.hash)
        return lookup_failed(LOOKUP_REASON_OVERLOADED, BYTES_LITERAL("out of memory"));
    const struct bytes hash = bytes_of_text(compare.hash);
    compare.is_scram = bytes_starts_with(hash, SCRAM_PREFIX);
    if (compare.is_scram && !directory_parse_scram(arena, hash, &compare.scram))
        return lookup_failed(LOOKUP_REASON_MISCONFIGURED,
                             BYTES_LITERAL("the user's SCRAM keys cannot be used"));
    const struct lookup lookup = compare_run(desk, &compare);
    explicit_bzero(plain, strlen(plain));
    if (known && compare.result != COMPARED_BROKEN)
        desk_learn(desk, compare.hash);
    if (secret.count >= PASSWORD_HASH_MAX)
        return lookup_failed(LOOKUP_REASON_MISCONFIGURED,
                             BYTES_LITERAL("the user's password hash is too long"));
    return known && password_is_usable(password) ? lookup : lookup_absent();
}

/* Asks the server that knows: it sees the password, we see no hash. An empty one never goes there,
 * since it would be an anonymous bind that "succeeds" (RFC 4513 section 5.1.2). Sleeps. */
static struct lookup password_check_there(struct remote *logins, struct arena *arena,
                                          const struct directory_user *user, struct bytes password)
{
    struct remote_question *question = ARENA_NEW(arena, struct remote_question);
    struct remote_answer *answer = ARENA_NEW(arena, struct remote_answer);
    char *plain = arena_text(arena, password);
    const bool may = user && !(user->flags & DIRECTORY_DISABLED) && user->handle.count > 0;

    if (!question || !answer || !plain)
        return lookup_failed(LOOKUP_REASON_OVERLOADED, BYTES_LITERAL("out of memory"));
    question->is_login = true;
    question->handle = may ? arena_text(arena, user->handle) : NULL;
    question->password = plain;
    remote_ask(logins, question, answer);
    explicit_bzero(plain, strlen(plain));
    switch (answer->status) {
    case LOOKUP_FOUND:
        return lookup_found();
    case LOOKUP_ABSENT:
        return lookup_absent();
    case LOOKUP_FAILED:
        break;
    }
    return lookup_failed(answer->reason, arena_copy(arena, bytes_of_text(answer->words)));
}

struct lookup directory_check_password(struct directory *directory, struct arena *arena,
                                       const struct directory_credentials *credentials,
                                       struct directory_user *user)
{
    const struct lookup found = find_user_now(directory, arena, credentials->user, user);
    struct remote *const logins = logins_of(directory, credentials->user);
    struct bytes secret = BYTES_EMPTY;

    if (found.status == LOOKUP_FAILED)
        return found;
    if (logins && !password_is_usable(credentials->password))
        return lookup_absent();
    if (logins)
        return password_check_there(logins, arena, found.status == LOOKUP_FOUND ? user : NULL,
                                    credentials->password);
    if (found.status == LOOKUP_FOUND)
        secret = user_secret(user);
    return password_check(directory, arena, secret, credentials->password);
}

bool directory_has_keys(struct directory *directory, struct address address)
{
    return logins_of(directory, address) == NULL;
}

struct lookup directory_find_scram(struct directory *directory, struct arena *arena,
                                   struct address address, struct directory_scram *scram)
{
    struct directory_user user;

    *scram = (struct directory_scram){0};
    const struct lookup found = find_user_now(directory, arena, address, &user);
    if (found.status != LOOKUP_FOUND)
        return found;
    struct bytes keys = user.scram;
    if (keys.count == 0 && bytes_starts_with(user.password, SCRAM_PREFIX))
        keys = user.password;
    if (keys.count == 0 || user.flags & DIRECTORY_DISABLED)
        return lookup_absent();
    return directory_parse_scram(arena, keys, scram)
               ? lookup_found()
               : lookup_failed(LOOKUP_REASON_MISCONFIGURED,
                               BYTES_LITERAL("the user's SCRAM keys cannot be used"));
}
