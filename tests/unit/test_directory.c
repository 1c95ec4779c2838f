/* directory: the parsers on hostile text, files that change, aliases, and SQLite with its faults.
 */
#include <stdarg.h>
#include <setjmp.h>
#include <sqlite3.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <unistd.h>
#include <cmocka.h>

#include "directory/source.h"

/* ------------------------------------------------------------------ a folder of files */

static char folder[64];

static char *path_of(const char *name)
{
    static char paths[8][160];
    static unsigned next;
    char *path = paths[next++ % COUNT_OF(paths)];

    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

/* Writes the file as if it had been there for `age_s`, so that nothing waits for it to settle. */
static void put_file_aged(const char *name, const char *text, long age_s)
{
    FILE *file = fopen(path_of(name), "w");
    struct timeval times[2];

    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, strlen(text), file), strlen(text));
    assert_int_equal(fclose(file), 0);
    gettimeofday(&times[0], NULL);
    times[0].tv_sec -= age_s;
    times[1] = times[0];
    assert_int_equal(utimes(path_of(name), times), 0);
}

static void put_file(const char *name, const char *text)
{
    put_file_aged(name, text, 100);
}

/* ------------------------------------------------------------------ parsers */

static enum lookup_status parse(snapshot_parse *parser, struct bytes text, char *why)
{
    struct snapshot snapshot = {.arena = ARENA_WITH_LIMIT(16 * MIB), .state = lookup_found()};

    snapshot.files[0].path = "users";
    snapshot.file_count = SNAPSHOT_FILES_MAX; /* nothing may be included here */
    parser(&snapshot, text);
    snprintf(why, 200, "%.*s", BYTES_PRINT(snapshot.state.detail));
    const enum lookup_status status = snapshot.state.status;

    arena_clear(&snapshot.arena);
    return status;
}

static void expect_malformed(snapshot_parse *parser, const char *text, const char *where)
{
    char why[200];

    assert_int_equal(parse(parser, bytes_of_text(text), why), LOOKUP_FAILED);
    assert_non_null(strstr(why, where));
}

static void test_users_malformed(void **state)
{
    char why[200];
    (void)state;

    assert_int_equal(parse(users_parse, BYTES_EMPTY, why), LOOKUP_FOUND);
    expect_malformed(users_parse, "alice\n\nbob smith\n", "users:3: ");
    expect_malformed(users_parse, ":x\n", "users:1: ");
    expect_malformed(users_parse, "# fine\n@example.com\n", "users:2: ");
    expect_malformed(users_parse, "a@\n", "users:1: ");
    expect_malformed(users_parse, "alice\nALICE\n", "users:2: this user is there twice");
    expect_malformed(users_parse, "alice:$6$x:quota\n", "users:1: ");
    expect_malformed(users_parse, "alice:color=red\n", "users:1: unknown field");
    expect_malformed(users_parse, "alice:disabled=maybe\n", "users:1: ");
    expect_malformed(users_parse, "al\xff\n", "users:1: ");
    expect_malformed(users_parse, "a\nb:deliver=pipe:/bin/cat\n", "users:2: deliver: pipe:");
    expect_malformed(users_parse, "a\nb:deliver=maildir:relative\n", "users:2: deliver: a path");
    expect_malformed(users_parse, "a\nb:deliver=nonsense\n", "users:2: deliver must be");
    expect_malformed(users_parse, "a\nb:deliver=\n", "users:2: deliver must be");
}

static void test_aliases_malformed(void **state)
{
    (void)state;
    expect_malformed(aliases_parse, "root alice\n", "users:1: ");
    expect_malformed(aliases_parse, "  more\n", "users:1: a continuation of nothing");
    expect_malformed(aliases_parse, "a: b\n\nroot:\n", "users:3: an alias without values");
    expect_malformed(aliases_parse, "a: \"|cmd x\n", "users:1: a quote is not closed");
    expect_malformed(aliases_parse, "a: b c\n", "users:1: a blank");
    expect_malformed(aliases_parse, "a: b\nA: c\n", "users:2: this alias is there twice");
    expect_malformed(aliases_parse, "a: b@@c\n", "users:1: this is no address");
    expect_malformed(aliases_parse, "a: :include:relative\n", "users:1: ");
    expect_malformed(aliases_parse, "a: :error:x\n", "users:1: ");
}

/* Every prefix ends in a table or a named failure; the sanitizers watch the rest. */
static void test_truncation(void **state)
{
    static const char users[] = "# all\nalice:$6$salt$hash:disabled=no\nbob@example.com\n";
    static const char aliases[] = "# x\nroot: alice,\n \"|cmd \\\"a\\\"\", /var/mail/x\n"
                                  "list: :include:/x/y, \\bob, <c@example.org>\n\"a b\": c\n";
    char why[200];
    (void)state;

    for (size_t i = 0; i < sizeof users; i++)
        if (parse(users_parse, bytes_of(users, i), why) == LOOKUP_FAILED)
            assert_non_null(strstr(why, "users:"));
    for (size_t i = 0; i < sizeof aliases; i++)
        if (parse(aliases_parse, bytes_of(aliases, i), why) == LOOKUP_FAILED)
            assert_non_null(strstr(why, "users:"));
}

/* ------------------------------------------------------------------ a directory of two domains */

struct house {
    struct config config;
    struct config_domain domains[2];
    struct directory *directory;
    struct arena arena;
};

static int house_begin(void **state)
{
    static struct house house;
    static char users[2][200], aliases[200];
    char why[200] = "";

    snprintf(folder, sizeof folder, "/tmp/holdfast-directory-XXXXXX");
    assert_non_null(mkdtemp(folder));
    snprintf(users[0], sizeof users[0], "file:%s", path_of("users"));
    snprintf(users[1], sizeof users[1], "sqlite:%s?table=people", path_of("users.db"));
    snprintf(aliases, sizeof aliases, "file:%s", path_of("aliases"));
    house = (struct house){.arena = ARENA_WITH_LIMIT(4 * MIB)};
    house.domains[0] = (struct config_domain){.name = "example.com",
                                              .users = users[0],
                                              .aliases = aliases,
                                              .catch_all = "",
                                              .tag_separator = '+'};
    house.domains[1] = (struct config_domain){.name = "sql.example",
                                              .users = users[1],
                                              .aliases = "",
                                              .catch_all = "",
                                              .tag_separator = '+'};
    house.config =
        (struct config){.domains = house.domains,
                        .domain_count = 2,
                        .directory.own_delivery = "lmtp:unix:/run/other  maildir:/srv/mail/"};
    put_file("users", "alice:$6$x$y\nBob\ncarol@example.com:disabled=yes\ndan@other.example\n");
    put_file("aliases", "");
    house.directory = directory_open(&house.config, why, sizeof why);
    *state = &house;
    return house.directory ? 0 : -1;
}

static int house_end(void **state)
{
    struct house *house = *state;
    static const char *const names[] = {"users", "aliases", "users.db", "users.db.new", "members"};

    directory_close(house->directory);
    arena_clear(&house->arena);
    for (size_t i = 0; i < COUNT_OF(names); i++)
        unlink(path_of(names[i]));
    return rmdir(folder);
}

static struct address address_of(const char *text)
{
    const struct bytes whole = bytes_of_text(text);
    const size_t at = bytes_find_last_byte(whole, '@');

    return (struct address){bytes_slice(whole, 0, at), bytes_skip(whole, at + 1)};
}

static struct lookup find(struct house *house, const char *text, struct directory_user *user)
{
    return directory_find_user(house->directory, &house->arena, address_of(text), user);
}

/* What the address leads to as "a@b c@d", or the look-up's outcome. */
static const char *expand(struct house *house, const char *text)
{
    static char shown[4000];
    struct directory_targets targets;
    const struct lookup lookup =
        directory_expand(house->directory, &house->arena, address_of(text), &targets);
    size_t used = 0;

    if (lookup.status == LOOKUP_ABSENT)
        return "absent";
    if (lookup.status == LOOKUP_FAILED)
        return lookup_reason_name(lookup.reason);
    shown[0] = '\0';
    for (unsigned i = 0; i < targets.count; i++) {
        const struct directory_target *target = &targets.targets[i];

        used += (size_t)snprintf(shown + used, sizeof shown - used, "%s%.*s%s%.*s%.*s",
                                 i ? " " : "", BYTES_PRINT(target->address.local),
                                 target->file_or_pipe.count ? ""
                                 : target->local            ? "@"
                                                            : "@@",
                                 BYTES_PRINT(target->address.domain),
                                 BYTES_PRINT(target->file_or_pipe));
    }
    return shown;
}

static void test_file_users(void **state)
{
    struct directory_user user;

    assert_int_equal(find(*state, "alice@example.com", &user).status, LOOKUP_FOUND);
    assert_true(bytes_equal_text(user.password, "$6$x$y"));
    assert_int_equal(find(*state, "BOB+work@example.com", &user).status, LOOKUP_FOUND);
    assert_true(bytes_equal_text(user.address.local, "Bob"));
    assert_true(bytes_equal_text(user.tag, "work"));
    assert_int_equal(find(*state, "carol@example.com", &user).status, LOOKUP_FOUND);
    assert_int_equal(user.flags, DIRECTORY_DISABLED);
    assert_int_equal(find(*state, "dan@example.com", &user).status, LOOKUP_ABSENT);
    assert_int_equal(find(*state, "nobody@example.com", &user).status, LOOKUP_ABSENT);
    assert_int_equal(find(*state, "alice@elsewhere.example", &user).status, LOOKUP_ABSENT);
}

/* A second look comes at most once a second: wait for that, as the server would. */
static void next_look(void)
{
    assert_int_equal(fiber_sleep_until(deadline_in(1100 * US_PER_MS)), IO_OK);
}

static void test_file_faults(void **state)
{
    struct directory_user user;
    struct house *house = *state;

    assert_int_equal(find(house, "alice@example.com", &user).status, LOOKUP_FOUND);
    put_file_aged("users", "alice\nerin\n", 50);
    next_look();
    assert_int_equal(find(house, "erin@example.com", &user).status, LOOKUP_FOUND);
    assert_int_equal(find(house, "bob@example.com", &user).status, LOOKUP_ABSENT);
    put_file_aged("users", "alice\nbad line\n", 40);
    next_look();
    const struct lookup malformed = find(house, "alice@example.com", &user);

    assert_int_equal(malformed.reason, LOOKUP_REASON_MISCONFIGURED);
    assert_true(bytes_find(malformed.detail, BYTES_LITERAL("users:2: ")) < malformed.detail.count);
    unlink(path_of("users"));
    next_look();
    assert_int_equal(find(house, "alice@example.com", &user).reason, LOOKUP_REASON_MISCONFIGURED);
    put_file("users", "alice\n");
    next_look();
    assert_int_equal(find(house, "alice@example.com", &user).status, LOOKUP_FOUND);
}

struct writer {
    struct fiber *parent;
    bool done;
};

static void writer_main(void *argument)
{
    struct writer *writer = argument;

    fiber_sleep_until(deadline_in(300 * US_PER_MS));
    put_file_aged("users", "alice\nfrank\n", 0);
    writer->done = true;
    fiber_wake(writer->parent);
}

/* A writer that truncates and then writes: who is missing meanwhile is not "absent". */
static void test_file_half_written(void **state)
{
    struct writer writer = {.parent = fiber_self()};
    struct directory_user user;

    put_file_aged("users", "", 0);
    assert_non_null(fiber_start("test.writer", writer_main, &writer));
    assert_int_equal(find(*state, "frank@example.com", &user).status, LOOKUP_FOUND);
    assert_true(writer.done);
}

static void test_aliases(void **state)
{
    struct house *house = *state;

    put_file("members", "# the team\nalice, bob\nfar@away.example\n");
    char text[1000];

    snprintf(text, sizeof text,
             "# comment\nroot: alice\nPostmaster: root\nteam: alice,\n\tbob,\n  alice\n"
             "out: x@elsewhere.example, <y@elsewhere.example>\n"
             "bob: bob, alice\nself: \\alice\n\"a b\": alice\nloop1: loop2\nloop2: loop1\n"
             "cmd: \"|/bin/cat \\\"x\\\"\"\nlist: :include:%s\nlost: :include:%s.not\n"
             "dead: nobody\nhalf: nobody, alice\nsub+tag: alice\n",
             path_of("members"), path_of("members"));
    put_file("aliases", text);
    assert_string_equal(expand(house, "root@example.com"), "alice@example.com");
    assert_string_equal(expand(house, "POSTMASTER@example.com"), "alice@example.com");
    assert_string_equal(expand(house, "postmaster@"), "alice@example.com");
    assert_string_equal(expand(house, "bob@example.com"), "Bob@example.com alice@example.com");
    assert_string_equal(expand(house, "team@example.com"), "alice@example.com Bob@example.com");
    assert_string_equal(expand(house, "out@example.com"),
                        "x@@elsewhere.example y@@elsewhere.example");
    assert_string_equal(expand(house, "self@example.com"), "alice@example.com");
    assert_string_equal(expand(house, "a b@example.com"), "alice@example.com");
    assert_string_equal(expand(house, "cmd@example.com"), "|/bin/cat \"x\"");
    assert_string_equal(expand(house, "list@example.com"),
                        "alice@example.com Bob@example.com far@@away.example");
    assert_string_equal(expand(house, "half@example.com"), "alice@example.com");
    assert_string_equal(expand(house, "sub+tag@example.com"), "alice@example.com");
    assert_string_equal(expand(house, "alice+x@example.com"), "alice+x@example.com");
    assert_string_equal(expand(house, "nobody@example.com"), "absent");
    assert_string_equal(expand(house, "loop1@example.com"), "misconfigured");
    assert_string_equal(expand(house, "lost@example.com"), "misconfigured");
    assert_string_equal(expand(house, "dead@example.com"), "misconfigured");
}

static struct directory_targets expand_targets(struct house *house, const char *text)
{
    struct directory_targets targets = {0};

    assert_int_equal(
        directory_expand(house->directory, &house->arena, address_of(text), &targets).status,
        LOOKUP_FOUND);
    return targets;
}

static bool owner_is(const struct directory_target *target, const char *local)
{
    return bytes_equal_text(target->owner.local, local);
}

/* The innermost list that has an owner gives it; owners have none. */
static void test_owners(void **state)
{
    struct house *house = *state;

    put_file("aliases", "list: alice, x@away.example, inner\nowner-list: bob\n"
                        "inner: bob, y@away.example, deep\nowner-inner: nobody@away.example\n"
                        "deep: z@away.example\nplain: x@away.example\n");
    struct directory_targets found = expand_targets(house, "LIST@example.com");

    assert_int_equal(found.count, 5);
    assert_true(owner_is(&found.targets[0], "owner-LIST") &&
                owner_is(&found.targets[1], "owner-LIST"));
    for (unsigned i = 2; i < 5; i++)
        assert_true(owner_is(&found.targets[i], "owner-inner"));
    assert_true(bytes_equal_text(found.targets[1].owner.domain, "example.com"));
    found = expand_targets(house, "owner-list@example.com");
    assert_true(found.count == 1 && owner_is(&found.targets[0], ""));
    found = expand_targets(house, "plain@example.com");
    assert_true(found.count == 1 && owner_is(&found.targets[0], ""));
}

static void test_own_delivery(void **state)
{
    struct house *house = *state;
    struct directory_user user;

    put_file("aliases", "boss: alice\n");
    put_file_aged("users",
                  "alice:$6$x$y:senders=*:deliver=lmtp:unix:/run/other\nbob:deliver=maildir:/srv/"
                  "mail/{user}\n"
                  "carol:deliver=maildir:/srv/mails/x\ndan:deliver=maildir:/srv/mail/../x\n"
                  "erin:deliver=lmtp:unix:/run/others\nfay:deliver=maildir:/srv/mail\n",
                  50);
    next_look();
    assert_int_equal(find(house, "alice@example.com", &user).status, LOOKUP_FOUND);
    assert_true(bytes_equal_text(user.deliver, "lmtp:unix:/run/other"));
    assert_true(bytes_equal_text(user.senders, "*"));
    assert_int_equal(find(house, "bob@example.com", &user).status, LOOKUP_FOUND);
    static const char *const elsewhere[] = {"carol", "dan", "erin", "fay"};

    for (size_t i = 0; i < COUNT_OF(elsewhere); i++) {
        char name[40];

        snprintf(name, sizeof name, "%s@example.com", elsewhere[i]);
        assert_int_equal(find(house, name, &user).reason, LOOKUP_REASON_MISCONFIGURED);
    }
    const struct directory_targets found = expand_targets(house, "boss@example.com");

    assert_true(found.count == 1 &&
                bytes_equal_text(found.targets[0].deliver, "lmtp:unix:/run/other"));
}

/* The deepest chain that is allowed, on a session's stack; one more is refused. */
struct deep {
    struct house *house;
    struct fiber *parent;
    bool one_more_refused, deepest_found, done;
};

static void deep_main(void *argument)
{
    struct deep *deep = argument;

    deep->one_more_refused = strcmp(expand(deep->house, "a1@example.com"), "misconfigured") == 0;
    deep->deepest_found = strcmp(expand(deep->house, "a2@example.com"), "alice@example.com") == 0;
    deep->done = true;
    fiber_wake(deep->parent);
}

static void test_aliases_deep(void **state)
{
    struct deep deep = {.house = *state, .parent = fiber_self()};
    char text[2000];
    size_t used = 0;

    for (int i = 1; i <= 32; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, "a%d: a%d\n", i, i + 1);
    snprintf(text + used, sizeof text - used, "a33: alice\n"); /* a2 to a33 are 32 aliases */
    put_file("aliases", text);
    assert_non_null(fiber_start("test.deep", deep_main, &deep));
    while (!deep.done)
        assert_int_equal(fiber_park(deadline_in(30 * US_PER_S)), IO_OK);
    assert_true(deep.one_more_refused);
    assert_true(deep.deepest_found);
}

static void test_alias_file_faults(void **state)
{
    struct house *house = *state;

    unlink(path_of("aliases"));
    assert_string_equal(expand(house, "alice@example.com"), "misconfigured");
    mkdir(path_of("aliases"), 0700);
    next_look();
    assert_string_equal(expand(house, "alice@example.com"), "unavailable");
    rmdir(path_of("aliases"));
}

static void test_catch_all(void **state)
{
    struct house *house = *state;

    house->domains[0].catch_all = "alice@example.com";
    assert_string_equal(expand(house, "nobody@example.com"), "alice@example.com");
    house->domains[0].catch_all = "missing@example.com";
    assert_string_equal(expand(house, "nobody@example.com"), "misconfigured");
    house->domains[0].catch_all = "all@elsewhere.example";
    assert_string_equal(expand(house, "nobody@example.com"), "all@@elsewhere.example");
}

/* One member of a list that cannot be looked up fails the whole: it might have led somewhere. */
static void test_list_half_known(void **state)
{
    struct house *house = *state;

    put_file("aliases", "team: alice, ann@sql.example\n"); /* there is no users.db */
    assert_string_equal(expand(house, "team@example.com"), "misconfigured");
    assert_string_equal(expand(house, "alice@example.com"), "alice@example.com");
}

/* ------------------------------------------------------------------ SQLite */

static void run_sql(sqlite3 *database, const char *sql)
{
    assert_int_equal(sqlite3_exec(database, sql, NULL, NULL, NULL), SQLITE_OK);
}

static sqlite3 *make_database(const char *name)
{
    sqlite3 *database = NULL;

    assert_int_equal(sqlite3_open(path_of(name), &database), SQLITE_OK);
    run_sql(database, "CREATE TABLE people(address TEXT PRIMARY KEY, password TEXT, disabled INT);"
                      "INSERT INTO people VALUES('ann@sql.example', 'secret', 0),"
                      "('Ben@SQL.example', NULL, 1)");
    return database;
}

static void test_sqlite(void **state)
{
    struct house *house = *state;
    struct directory_user user;
    sqlite3 *database = make_database("users.db");

    assert_int_equal(find(house, "Ann+t@sql.example", &user).status, LOOKUP_FOUND);
    assert_true(bytes_equal_text(user.password, "secret"));
    assert_true(bytes_equal_text(user.tag, "t"));
    assert_int_equal(find(house, "ben@sql.example", &user).status, LOOKUP_FOUND);
    assert_int_equal(user.flags, DIRECTORY_DISABLED);
    assert_int_equal(find(house, "o'neil@sql.example", &user).status, LOOKUP_ABSENT);
    assert_int_equal(find(house, "%@sql.example", &user).status, LOOKUP_ABSENT);
    run_sql(database, "INSERT INTO people VALUES('cy@sql.example', '', 0)");
    assert_int_equal(find(house, "cy@sql.example", &user).status, LOOKUP_FOUND);
    sqlite3_close(database);
}

/* While the database is gone, the last positive answers stand in, but never one that says no. */
static void test_stale_never_refuses(void **state)
{
    struct house *house = *state;
    struct directory_user user;
    sqlite3 *database = make_database("users.db");

    house->config.directory.stale_positive_us = 3600 * US_PER_S;
    assert_int_equal(find(house, "ann@sql.example", &user).status, LOOKUP_FOUND);
    assert_int_equal(find(house, "ben@sql.example", &user).status, LOOKUP_FOUND);
    assert_int_equal(user.flags, DIRECTORY_DISABLED);
    sqlite3_close(database);
    unlink(path_of("users.db"));
    assert_int_equal(find(house, "ann@sql.example", &user).status, LOOKUP_FOUND);
    assert_int_equal(find(house, "ben@sql.example", &user).status, LOOKUP_FAILED);
    assert_int_equal(find(house, "nobody@sql.example", &user).status, LOOKUP_FAILED);
}

static void expect_failed(struct house *house, enum lookup_reason reason)
{
    struct directory_user user;
    const struct lookup lookup = find(house, "ann@sql.example", &user);

    assert_int_equal(lookup.status, LOOKUP_FAILED);
    assert_int_equal(lookup.reason, reason);
    assert_true(lookup.detail.count > 0);
}

static void test_sqlite_faults(void **state)
{
    struct house *house = *state;
    struct directory_user user;

    expect_failed(house, LOOKUP_REASON_MISCONFIGURED); /* no file */
    sqlite3 *database = make_database("users.db");

    assert_int_equal(find(house, "ann@sql.example", &user).status, LOOKUP_FOUND);
    run_sql(database, "BEGIN EXCLUSIVE");
    expect_failed(house, LOOKUP_REASON_UNAVAILABLE);
    run_sql(database, "COMMIT");
    assert_int_equal(find(house, "ann@sql.example", &user).status, LOOKUP_FOUND);
    run_sql(database, "ALTER TABLE people RENAME TO others");
    expect_failed(house, LOOKUP_REASON_MISCONFIGURED);
    sqlite3_close(database);
    put_file("users.db", "this is no database, but it is long enough to look like something else");
    expect_failed(house, LOOKUP_REASON_UNAVAILABLE);
}

/* A new file that is renamed over the old one is what counts from then on. */
static void test_sqlite_replaced(void **state)
{
    struct house *house = *state;
    struct directory_user user;

    sqlite3_close(make_database("users.db"));
    assert_int_equal(find(house, "ann@sql.example", &user).status, LOOKUP_FOUND);
    sqlite3 *other = make_database("users.db.new");

    run_sql(other, "INSERT INTO people VALUES('new@sql.example', '', 0)");
    sqlite3_close(other);
    assert_int_equal(rename(path_of("users.db.new"), path_of("users.db")), 0);
    assert_int_equal(find(house, "new@sql.example", &user).status, LOOKUP_FOUND);
    unlink(path_of("users.db"));
    expect_failed(house, LOOKUP_REASON_MISCONFIGURED);
}

static void test_open_refuses(void **state)
{
    static const char *const bad[] = {
        "ldap://x",           "sqlite:",          "sqlite:/x?table=a b",
        "sqlite:/x?column=a", "sqlite:/x?query=", "/plain"};
    struct config_domain domain = {.name = "x.example", .aliases = ""};
    const struct config config = {.domains = &domain, .domain_count = 1};
    (void)state;

    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        char why[200] = "";

        domain.users = bad[i];
        assert_null(directory_open(&config, why, sizeof why));
        assert_true(strlen(why) > 0);
    }
}

static int run(void *nothing)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_users_malformed),
        cmocka_unit_test(test_aliases_malformed),
        cmocka_unit_test(test_truncation),
        cmocka_unit_test(test_open_refuses),
        cmocka_unit_test_setup_teardown(test_file_users, house_begin, house_end),
        cmocka_unit_test_setup_teardown(test_file_faults, house_begin, house_end),
        cmocka_unit_test_setup_teardown(test_file_half_written, house_begin, house_end),
        cmocka_unit_test_setup_teardown(test_aliases, house_begin, house_end),
        cmocka_unit_test_setup_teardown(test_owners, house_begin, house_end),
        cmocka_unit_test_setup_teardown(test_own_delivery, house_begin, house_end),
        cmocka_unit_test_setup_teardown(test_aliases_deep, house_begin, house_end),
        cmocka_unit_test_setup_teardown(test_alias_file_faults, house_begin, house_end),
        cmocka_unit_test_setup_teardown(test_list_half_known, house_begin, house_end),
        cmocka_unit_test_setup_teardown(test_stale_never_refuses, house_begin, house_end),
        cmocka_unit_test_setup_teardown(test_catch_all, house_begin, house_end),
        cmocka_unit_test_setup_teardown(test_sqlite, house_begin, house_end),
        cmocka_unit_test_setup_teardown(test_sqlite_faults, house_begin, house_end),
        cmocka_unit_test_setup_teardown(test_sqlite_replaced, house_begin, house_end),
    };
    (void)nothing;

    return cmocka_run_group_tests_name("directory", tests, NULL, NULL);
}

int main(void)
{
    return world_run(run, NULL, 1);
}
