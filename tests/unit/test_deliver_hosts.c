/*
 * Which hosts are tried, in which order, and what TLS does to a session. DNS answers come from a
 * table in this program (linked instead of resolve); every address is loopback, told apart by its
 * number.
 */
#include "real_world.h"
#include "fake_resolver.h"
#include "fake_spool.h"
#include "scripted_peer.h"

#include <sys/stat.h>
#include <unistd.h>

#include "deliver/deliver.h"

#define EHLO "> 220 peer\n< EHLO mx.test\n> 250 peer\n"
#define EHLO_TLS "> 220 peer\n< EHLO mx.test\n> 250-peer\n> 250 STARTTLS\n"
#define TAKE                                                                                       \
    "< MAIL\n> 250 ok\n< RCPT\n> 250 ok\n< DATA\n> 354 go\n.\n> 250 2.0.0 queued\n< QUIT\n> 221 "  \
    "bye\n"

/* ------------------------------------------------------------------ DNS by table */

static struct {
    struct lookup lookup;
    struct mail_hosts hosts;
    struct mail_host host[12];
    struct ip_address ip[12];
    /* TLSA: what a question for any name gives. */
    enum lookup_status tlsa_status;
    enum lookup_reason tlsa_reason;
    bool tlsa_insecure;
    bool mute;                /* not even the canary is answered */
    const char *alias_secure; /* the name whose CNAME came validated; no TLSA but at that name */
    uint8_t tlsa[3 + 32];
    char tlsa_name[256]; /* that was asked for last */
} dns;

struct lookup resolve_mail_hosts(struct resolver *resolver, struct arena *arena,
                                 struct bytes domain, struct mail_hosts *hosts)
{
    (void)resolver;
    (void)arena;
    (void)domain;
    *hosts = dns.hosts;
    return dns.lookup;
}

struct lookup resolve_ask(struct resolver *resolver, struct arena *arena, struct bytes name,
                          enum dns_type type, struct dns_answer *answer)
{
    (void)resolver;
    if (bytes_starts_with(name, BYTES_LITERAL("holdfast-")))
        return dns.mute ? lookup_failed(LOOKUP_REASON_TIMEOUT, BYTES_LITERAL("mute"))
                        : lookup_absent();
    if (type == DNS_CNAME) {
        answer->secure = dns.alias_secure && bytes_equal_text(name, dns.alias_secure);
        return lookup_found();
    }
    if (type == DNS_TLSA) {
        snprintf(dns.tlsa_name, sizeof dns.tlsa_name, "%.*s", BYTES_PRINT(name));
        if (dns.tlsa_status != LOOKUP_FOUND)
            return dns.tlsa_reason ? lookup_failed(dns.tlsa_reason, BYTES_EMPTY) : lookup_absent();
        answer->records = ARENA_NEW(arena, struct dns_record);
        answer->records[0] =
            (struct dns_record){.type = DNS_TLSA, .raw = bytes_of(dns.tlsa, sizeof dns.tlsa)};
        answer->count = 1;
        answer->secure = !dns.tlsa_insecure;
        return lookup_found();
    }
    if (type != DNS_A || dns.lookup.status != LOOKUP_FOUND)
        return dns.lookup.status == LOOKUP_FOUND ? lookup_absent() : dns.lookup;
    answer->records = ARENA_NEW(arena, struct dns_record);
    answer->records[0] = (struct dns_record){.type = DNS_A, .ip = dns.ip[0]};
    answer->count = 1;
    return lookup_found();
}

/* 127.0.0.NUMBER; only 127.0.0.1 has a listener. */
static void dns_add(const char *name, uint16_t preference, uint8_t number)
{
    const unsigned i = dns.hosts.count++;

    dns.ip[i] = (struct ip_address){ENDPOINT_IPV4, {127, 0, 0, number}};
    dns.host[i] = (struct mail_host){.name = bytes_of_text(name),
                                     .preference = preference,
                                     .addresses = &dns.ip[i],
                                     .address_count = number > 0 ? 1 : 0,
                                     .lookup = number > 0 ? lookup_found() : lookup_absent()};
    dns.hosts.hosts = dns.host;
    dns.lookup = lookup_found();
}

/* ------------------------------------------------------------------ a scene */

struct scene {
    struct config config;
    struct config_listen listen;
    struct deliver_settings settings;
    struct spool *spool;
    struct deliver *deliver;
    struct deliver_channel *channel;
    struct arena arena;
    struct peer peer;
    struct outcome outcome;
    const char *domain;
    const char *body; /* NULL: something short */
    bool host_failed, require_tls;
    char root[64], certificate[96], key[96];
};

static struct scene *scene_new(const char *const *scripts)
{
    struct scene *scene = calloc(1, sizeof(*scene));

    INVARIANT(scene);
    memset(&dns, 0, sizeof(dns));
    scene->spool = calloc(1, sizeof(*scene->spool));
    INVARIANT(scene->spool);
    scene->config.hostname = "mx.test";
    scene->config.smtp_port = scripts ? peer_start(&scene->peer, scripts) : 1;
    scene->settings = (struct deliver_settings){.config = &scene->config,
                                                .spool = scene->spool,
                                                .resolver = (struct resolver *)(uintptr_t)1};
    scene->arena = ARENA_WITH_LIMIT(MIB);
    scene->domain = "x.example";
    return scene;
}

static void scene_send(struct scene *scene)
{
    struct recipient recipient = {.address = {BYTES_LITERAL("r"), bytes_of_text(scene->domain)}};
    const struct envelope envelope = {.from = {BYTES_LITERAL("a"), BYTES_LITERAL("x.test")},
                                      .recipients = &recipient,
                                      .recipient_count = 1,
                                      .requiretls = scene->require_tls};
    const uint32_t index = 0;
    struct queued_message *message = NULL;
    struct destination to;
    char why[256];

    scene->deliver = deliver_open(&scene->settings, why, sizeof(why));
    deliver_route(scene->deliver, &recipient, &to);
    scene->channel = deliver_channel_open(scene->deliver, &to);
    const uint64_t id = fake_add(scene->spool, &envelope,
                                 bytes_of_text(scene->body ? scene->body : "A: b\r\n\r\nc\r\n"))
                            ->id;
    CHECK(spool_take_id(scene->spool, id, &message).status == LOOKUP_FOUND);
    struct attempt attempt = {.to = &to,
                              .message = message,
                              .recipients = &index,
                              .recipient_count = 1,
                              .outcomes = &scene->outcome,
                              .arena = &scene->arena};
    deliver_attempt(scene->channel, &attempt, &scene->host_failed);
    spool_release(scene->spool, message);
    deliver_channel_close(scene->channel);
}

static void scene_end(struct scene *scene)
{
    char command[128];

    if (scene->peer.scripts)
        peer_finish(&scene->peer);
    if (scene->root[0]) {
        tls_context_free(scene->settings.tls);
        tls_context_free(scene->peer.tls);
        snprintf(command, sizeof(command), "rm -rf %s", scene->root);
        CHECK(system(command) == 0);
    }
    deliver_close(scene->deliver);
    arena_clear(&scene->arena);
    fake_free(scene->spool);
    free(scene);
}

static void check(const struct scene *scene, enum cause cause, enum stage stage, bool host_failed)
{
    if (scene->outcome.verdict.cause != cause || scene->outcome.stage != stage)
        fprintf(stderr, "%s at %s '%.*s'; expected %s at %s\n",
                cause_name(scene->outcome.verdict.cause), stage_name(scene->outcome.stage),
                BYTES_PRINT(scene->outcome.reply), cause_name(cause), stage_name(stage));
    CHECK(scene->outcome.verdict.cause == cause && scene->outcome.stage == stage);
    CHECK(scene->host_failed == host_failed);
}

/* ------------------------------------------------------------------ what DNS says */

WORLD(test_answers_without_a_host)
{
    static const struct {
        enum lookup_status status;
        enum lookup_reason reason;
        bool nxdomain, null_mx;
        enum cause cause;
        bool host_failed;
    } ROWS[] = {
        {LOOKUP_FAILED, LOOKUP_REASON_TIMEOUT, false, false, CAUSE_DNS_MX_TEMPERROR, true},
        {LOOKUP_FAILED, LOOKUP_REASON_UNAVAILABLE, false, false, CAUSE_DNS_MX_TEMPERROR, true},
        {LOOKUP_FAILED, LOOKUP_REASON_TIMEOUT, false, false, CAUSE_DNS_RESOLVER_FAILED, false},
        {LOOKUP_FAILED, LOOKUP_REASON_BOGUS, false, false, CAUSE_TLS_POLICY_UNMET, true},
        {LOOKUP_ABSENT, 0, true, false, CAUSE_DESTINATION_UNKNOWN, false},
        {LOOKUP_ABSENT, 0, false, false, CAUSE_DESTINATION_NO_ADDRESS, false},
        {LOOKUP_FOUND, 0, false, true, CAUSE_DESTINATION_NULL_MX, false},
    };
    for (unsigned i = 0; i < COUNT_OF(ROWS); i++) {
        struct scene *scene = scene_new(NULL);
        dns.lookup = (struct lookup){.status = ROWS[i].status, .reason = ROWS[i].reason};
        dns.hosts.nxdomain = ROWS[i].nxdomain;
        dns.hosts.null_mx = ROWS[i].null_mx;
        dns.mute = ROWS[i].cause == CAUSE_DNS_RESOLVER_FAILED;
        scene_send(scene);
        check(scene, ROWS[i].cause, STAGE_DNS, ROWS[i].host_failed);
        scene_end(scene);
    }
    return 0;
}

WORLD(test_only_ourselves)
{
    for (unsigned by_address = 0; by_address < 2; by_address++) {
        struct scene *scene = scene_new(NULL);
        scene->listen.address = (struct endpoint){.family = ENDPOINT_IPV4,
                                                  .ip = {ENDPOINT_IPV4, {127, 0, 0, 9}},
                                                  .port = scene->config.smtp_port};
        scene->config.listens = &scene->listen;
        scene->config.listen_count = 1;
        dns_add(by_address ? "alias.example" : "MX.test", 10, by_address ? 9 : 1);
        dns_add("behind-us.example", 20, 1);
        scene_send(scene);
        check(scene, CAUSE_ROUTE_LOOP, STAGE_DNS, false);
        scene_end(scene);
    }
    return 0;
}

WORLD(test_only_what_is_nearer_than_ourselves)
{
    static const char *const SCRIPTS[] = {"> 421 4.3.2 busy\n< QUIT\n> 221 bye\n", NULL};
    struct scene *scene = scene_new(SCRIPTS);

    dns_add("near.example", 5, 1);
    dns_add("mx.test", 10, 1);
    dns_add("same.example", 10, 1);
    dns_add("far.example", 20, 1);
    scene_send(scene);
    check(scene, CAUSE_REMOTE_DEFERRED, STAGE_BANNER, true);
    scene_end(scene);
    return 0;
}

WORLD(test_hosts_without_address)
{
    struct scene *scene = scene_new(NULL);

    dns_add("a.example", 10, 0);
    dns_add("b.example", 10, 0);
    scene_send(scene);
    check(scene, CAUSE_DESTINATION_NO_ADDRESS, STAGE_DNS, false);
    dns.host[1].lookup = lookup_failed(LOOKUP_REASON_TIMEOUT, BYTES_EMPTY);
    deliver_close(scene->deliver);
    scene_send(scene);
    check(scene, CAUSE_DNS_MX_TEMPERROR, STAGE_DNS, true);
    scene_end(scene);
    return 0;
}

/* ------------------------------------------------------------------ one host after the other */

/* Refused, 421, 554, closed, and then one that takes it. */
WORLD(test_next_host_after_each_failure)
{
    static const char *const SCRIPTS[] = {"> 421 no\n< QUIT\n> 221 bye\n",
                                          "> 554 no\n< QUIT\n> 221 bye\n",
                                          "",
                                          "> 220 p\n< EHLO\n> 421 no\n< QUIT\n> 221 bye\n",
                                          EHLO TAKE,
                                          NULL};
    struct scene *scene = scene_new(SCRIPTS);

    dns_add("dead.example", 1, 7); /* nobody listens there */
    for (uint16_t i = 2; i < 7; i++)
        dns_add("mail.example", i, 1);
    scene_send(scene);
    check(scene, CAUSE_DELIVERED, STAGE_DOT, false);
    CHECK(bytes_starts_with(scene->outcome.host, BYTES_LITERAL("mail.example[127.0.0.1]:")));
    scene_end(scene);
    return 0;
}

/* A 5yz greeting is final only when every host says so. */
WORLD(test_greeting_5yz)
{
    static const char *const ALL[] = {"> 554 no\n< QUIT\n> 221 bye\n",
                                      "> 521 no mail\n< QUIT\n> 221 bye\n", NULL};
    static const char *const SOME[] = {"> 554 no\n< QUIT\n> 221 bye\n",
                                       "> 421 busy\n< QUIT\n> 221 bye\n", NULL};
    struct scene *scene = scene_new(ALL);

    dns_add("a.example", 1, 1);
    dns_add("b.example", 2, 1);
    scene_send(scene);
    check(scene, CAUSE_REMOTE_REFUSED, STAGE_BANNER, false);
    scene_end(scene);
    scene = scene_new(SOME);
    dns_add("a.example", 1, 1);
    dns_add("b.example", 2, 1);
    scene_send(scene);
    check(scene, CAUSE_REMOTE_DEFERRED, STAGE_BANNER, true);
    scene_end(scene);
    return 0;
}

/* A 4yz to the message is the message's affair: the second host is not asked. */
WORLD(test_no_next_host_after_mail)
{
    static const char *const SCRIPTS[] = {EHLO "< MAIL\n> 451 later\n< QUIT\n> 221 bye\n", NULL};
    struct scene *scene = scene_new(SCRIPTS);

    dns_add("a.example", 1, 1);
    dns_add("b.example", 2, 1);
    scene_send(scene);
    check(scene, CAUSE_REMOTE_DEFERRED, STAGE_MAIL, false);
    scene_end(scene);
    return 0;
}

WORLD(test_address_literals)
{
    static const char *const SCRIPTS[] = {EHLO TAKE, NULL};
    struct scene *scene = scene_new(SCRIPTS);

    scene->domain = "[127.0.0.1]";
    scene_send(scene);
    check(scene, CAUSE_DELIVERED, STAGE_DOT, false);
    scene_end(scene);
    static const char *const BAD[] = {"[", "[]", "[localhost]", "[IPv6:]", "[127.0.0.1"};
    for (unsigned i = 0; i < COUNT_OF(BAD); i++) {
        scene = scene_new(NULL);
        scene->domain = BAD[i];
        scene_send(scene);
        CHECK(scene->outcome.verdict.kind != VERDICT_ACCEPT);
        CHECK(i == 4 || scene->outcome.verdict.cause == CAUSE_DESTINATION_UNKNOWN);
        scene_end(scene);
    }
    return 0;
}

WORLD(test_configured_host_name)
{
    static const char *const SCRIPTS[] = {EHLO TAKE, NULL};
    struct scene *scene = scene_new(SCRIPTS);

    scene->config.relay_via = (struct config_deliver){.kind = DELIVER_SMTP,
                                                      .target = BYTES_LITERAL("relay.example:25"),
                                                      .host = BYTES_LITERAL("relay.example"),
                                                      .port = scene->config.smtp_port};
    dns_add("relay.example", 0, 1);
    scene_send(scene);
    check(scene, CAUSE_DELIVERED, STAGE_DOT, false);
    deliver_close(scene->deliver);
    dns.lookup = lookup_absent(); /* our own setting is wrong: it waits */
    scene_send(scene);
    check(scene, CAUSE_MAILBOX_MISCONFIGURED, STAGE_DNS, false);
    scene_end(scene);
    return 0;
}

/* ------------------------------------------------------------------ TLS */

static void scene_use_tls(struct scene *scene, enum tls_use use)
{
    char why[256] = "";

    snprintf(scene->root, sizeof(scene->root), "/tmp/holdfast-tls-XXXXXX");
    INVARIANT(mkdtemp(scene->root));
    snprintf(scene->certificate, sizeof(scene->certificate), "%s/cert.pem", scene->root);
    snprintf(scene->key, sizeof(scene->key), "%s/key.pem", scene->root);
    CHECK(tls_make_self_signed("peer.test", scene->certificate, scene->key, why, sizeof(why)));
    scene->peer.tls = tls_context_server(scene->certificate, scene->key, why, sizeof(why));
    scene->settings.tls = tls_context_client(why, sizeof(why));
    CHECK(scene->peer.tls && scene->settings.tls);
    scene->config.relay_tls = use;
    scene->config.relay_via =
        (struct config_deliver){.kind = DELIVER_SMTP,
                                .target = BYTES_LITERAL("peer"),
                                .endpoint = {.family = ENDPOINT_IPV4,
                                             .ip = {ENDPOINT_IPV4, {127, 0, 0, 1}},
                                             .port = scene->config.smtp_port}};
}

WORLD(test_opportunistic_tls)
{
    static const char *const SCRIPTS[] = {
        EHLO_TLS "< STARTTLS\n> 220 go\ntls\n< EHLO mx.test\n> 250 peer\n" TAKE, NULL};
    struct scene *scene = scene_new(SCRIPTS);

    scene_use_tls(scene, TLS_USE_MAY);
    scene_send(scene);
    check(scene, CAUSE_DELIVERED, STAGE_DOT, false);
    CHECK(bytes_starts_with(scene->outcome.tls, BYTES_LITERAL("TLSv1.")));
    scene_end(scene);
    return 0;
}

/* What came in clear behind the 220 is not taken for the answer to the EHLO said under TLS. */
WORLD(test_injected_before_the_handshake)
{
    static const char *const SCRIPTS[] = {
        EHLO_TLS "< STARTTLS\n>> 220 go\r|250-evil\r|250 CHUNKING\r|\ntls\n< EHLO mx.test\n> 250 "
                 "peer\n" TAKE,
        NULL};
    struct scene *scene = scene_new(SCRIPTS);

    scene_use_tls(scene, TLS_USE_MAY);
    scene_send(scene);
    check(scene, CAUSE_DELIVERED, STAGE_DOT, false);
    CHECK(scene->outcome.tls.count > 0);
    scene_end(scene);
    return 0;
}

/* `may`: refused or broken TLS is no obstacle. `must`: nothing is ever said in clear. */
WORLD(test_tls_that_fails)
{
    static const char *const REFUSED[] = {EHLO_TLS "< STARTTLS\n> 454 not now\n" TAKE, NULL};
    static const char *const BROKEN[] = {
        EHLO_TLS "< STARTTLS\n> 220 go\nanything\n> garbage\nhang\n", EHLO_TLS TAKE, NULL};
    static const char *const CLOSED[] = {EHLO_TLS "< STARTTLS\n", EHLO TAKE, NULL};
    static const char *const *const MAY[] = {REFUSED, BROKEN, CLOSED};
    for (unsigned i = 0; i < COUNT_OF(MAY); i++) {
        struct scene *scene = scene_new(MAY[i]);
        scene_use_tls(scene, TLS_USE_MAY);
        scene_send(scene);
        check(scene, CAUSE_DELIVERED, STAGE_DOT, false);
        CHECK(scene->outcome.tls.count == 0);
        scene_end(scene);
    }
    static const char *const MUST_REFUSED[] = {
        EHLO_TLS "< STARTTLS\n> 454 not now\n< QUIT\n> 221 bye\n", NULL};
    static const char *const MUST_BROKEN[] = {
        EHLO_TLS "< STARTTLS\n> 220 go\nanything\n> garbage\nhang\n", NULL};
    static const char *const NOT_OFFERED[] = {EHLO "< QUIT\n> 221 bye\n", NULL};
    static const char *const *const MUST[] = {MUST_REFUSED, MUST_BROKEN, NOT_OFFERED};
    for (unsigned i = 0; i < COUNT_OF(MUST); i++) {
        struct scene *scene = scene_new(MUST[i]);
        scene_use_tls(scene, TLS_USE_MUST);
        scene_send(scene);
        check(scene, CAUSE_TLS_POLICY_UNMET, STAGE_TLS, true);
        scene_end(scene);
    }
    return 0;
}

/* Without validated records `dane` is never met, and nothing goes. */
WORLD(test_dane_without_records)
{
    struct scene *scene = scene_new(NULL); /* nobody is even connected to */

    scene_use_tls(scene, TLS_USE_DANE);
    scene_send(scene);
    check(scene, CAUSE_TLS_POLICY_UNMET, STAGE_TLS, true);
    scene_end(scene);
    return 0;
}

/* SHA-256 of the certificate's key, as openssl(1) sees it. */
static void tlsa_of(const char *certificate, uint8_t into[static 32])
{
    char command[400], text[128] = "";

    snprintf(command, sizeof command,
             "openssl x509 -in %s -noout -pubkey | openssl pkey -pubin -outform DER | openssl dgst "
             "-sha256 -r",
             certificate);
    FILE *const pipe = popen(command, "r");
    CHECK(pipe && fgets(text, sizeof text, pipe) && strlen(text) > 64);
    for (unsigned i = 0; i < 32; i++)
        into[i] = (uint8_t)(ascii_hex_value((uint8_t)text[2 * i]) * 16 +
                            ascii_hex_value((uint8_t)text[2 * i + 1]));
    CHECK(pipe && pclose(pipe) == 0);
}

#define SECURED EHLO_TLS "< STARTTLS\n> 220 go\ntls\n< EHLO mx.test\n> 250 peer\n" TAKE
static const char *const RIGHT[] = {SECURED, NULL};
static const char *const LEAVES[] = {EHLO_TLS "< STARTTLS\n> 220 go\ntls\n", NULL};
static const char *const STRIPPED[] = {EHLO "< QUIT\n> 221 bye\n", NULL};
static const char *const PLAIN[] = {EHLO TAKE, NULL};

/* RFC 7672: what the records, the signatures and the host come to. */
WORLD(test_dane)
{
    enum { RIGHT_KEY, WRONG_KEY };
    static const struct {
        const char *const *scripts;
        uint8_t usage;
        unsigned key;
        bool mx_insecure, address_insecure, tlsa_insecure;
        enum lookup_reason tlsa_fails;
        enum cause cause;
    } ROWS[] = {
        {RIGHT, 3, RIGHT_KEY, .cause = CAUSE_DELIVERED},
        {LEAVES, 3, WRONG_KEY, .cause = CAUSE_TLS_POLICY_UNMET},
        {STRIPPED, 3, RIGHT_KEY, .cause = CAUSE_TLS_POLICY_UNMET},
        {NULL, 3, RIGHT_KEY, .tlsa_fails = LOOKUP_REASON_BOGUS, .cause = CAUSE_TLS_POLICY_UNMET},
        {NULL, 3, RIGHT_KEY, .tlsa_fails = LOOKUP_REASON_TIMEOUT, .cause = CAUSE_TLS_POLICY_UNMET},
        {NULL, 3, RIGHT_KEY, .tlsa_fails = LOOKUP_REASON_TIMEOUT,
         .cause = CAUSE_DNS_RESOLVER_FAILED},
        {RIGHT, 1, WRONG_KEY,
         .cause = CAUSE_DELIVERED}, /* PKIX-EE does not count: encrypted only */
        {STRIPPED, 1, WRONG_KEY, .cause = CAUSE_TLS_POLICY_UNMET},
        {RIGHT, 3, WRONG_KEY, .mx_insecure = true,
         .cause = CAUSE_DELIVERED}, /* as if there was none */
        {RIGHT, 3, WRONG_KEY, .address_insecure = true, .cause = CAUSE_DELIVERED},
        {RIGHT, 3, WRONG_KEY, .tlsa_insecure = true, .cause = CAUSE_DELIVERED},
        {PLAIN, 3, RIGHT_KEY, .tlsa_insecure = true, .cause = CAUSE_DELIVERED},
    };
    for (unsigned i = 0; i < COUNT_OF(ROWS); i++) {
        struct scene *scene = scene_new(ROWS[i].scripts);
        scene_use_tls(scene, TLS_USE_MAY);
        scene->config.relay_via = (struct config_deliver){0};
        dns_add("peer.test", 10, 1);
        dns.host[0].named_secure = !ROWS[i].mx_insecure;
        dns.host[0].secure = !ROWS[i].mx_insecure && !ROWS[i].address_insecure;
        dns.tlsa_insecure = ROWS[i].tlsa_insecure;
        dns.tlsa_reason = ROWS[i].tlsa_fails;
        dns.mute = ROWS[i].cause == CAUSE_DNS_RESOLVER_FAILED;
        dns.tlsa_status = ROWS[i].tlsa_fails ? LOOKUP_FAILED : LOOKUP_FOUND;
        dns.tlsa[0] = ROWS[i].usage;
        dns.tlsa[1] = dns.tlsa[2] = 1;
        tlsa_of(scene->certificate, dns.tlsa + 3);
        dns.tlsa[3] ^= (uint8_t)(ROWS[i].key == WRONG_KEY);
        scene_send(scene);
        if (scene->outcome.verdict.cause != ROWS[i].cause)
            fprintf(stderr, "row %u\n", i);
        check(scene, ROWS[i].cause, ROWS[i].cause == CAUSE_DELIVERED ? STAGE_DOT : STAGE_TLS,
              ROWS[i].cause == CAUSE_TLS_POLICY_UNMET);
        scene_end(scene);
    }
    return 0;
}

/* TLS-Required: No (RFC 8689 5) waives what the recipient's domain demands; nothing else does, and
 * a setting of ours stays. */
WORLD(test_tls_required_no)
{
    static const struct {
        const char *body;
        bool require;
        enum tls_use use;
        const char *const *scripts;
        enum cause cause;
    } ROWS[] = {
        {"TLS-Required: No\r\n\r\nx\r\n", false, TLS_USE_MAY, PLAIN, CAUSE_DELIVERED},
        {"tls-required:no \r\n\r\nx\r\n", false, TLS_USE_MAY, PLAIN, CAUSE_DELIVERED},
        {"TLS-Required: No\r\n\r\nx\r\n", false, TLS_USE_MAY, RIGHT, CAUSE_DELIVERED},
        {"TLS-Required: Maybe\r\n\r\nx\r\n", false, TLS_USE_MAY, STRIPPED, CAUSE_TLS_POLICY_UNMET},
        {"TLS-Required: No\r\nTLS-Required: No\r\n\r\nx\r\n", false, TLS_USE_MAY, STRIPPED,
         CAUSE_TLS_POLICY_UNMET},
        {"A: b\r\n\r\nTLS-Required: No\r\n", false, TLS_USE_MAY, STRIPPED, CAUSE_TLS_POLICY_UNMET},
        {"TLS-Required: No\r\n\r\nx\r\n", false, TLS_USE_MUST, STRIPPED, CAUSE_TLS_POLICY_UNMET},
        {"TLS-Required: No\r\n\r\nx\r\n", true, TLS_USE_MAY, STRIPPED, CAUSE_TLS_POLICY_UNMET},
    };
    for (unsigned i = 0; i < COUNT_OF(ROWS); i++) {
        struct scene *scene = scene_new(ROWS[i].scripts);
        scene_use_tls(scene, ROWS[i].use);
        scene->config.relay_via = (struct config_deliver){0};
        scene->body = ROWS[i].body;
        scene->require_tls = ROWS[i].require;
        dns_add("peer.test", 10, 1);
        dns.host[0].named_secure = dns.host[0].secure = true;
        dns.tlsa_status = LOOKUP_FOUND;
        dns.tlsa[0] = 3;
        dns.tlsa[1] = dns.tlsa[2] = 1;
        tlsa_of(scene->certificate, dns.tlsa + 3);
        scene_send(scene);
        if (scene->outcome.verdict.cause != ROWS[i].cause)
            fprintf(stderr, "row %u: %s\n", i, cause_name(scene->outcome.verdict.cause));
        CHECK(scene->outcome.verdict.cause == ROWS[i].cause);
        scene_end(scene);
    }
    return 0;
}

/* Where the TLSA records of an alias stand (RFC 7672 2.2.2). */
WORLD(test_dane_of_an_alias)
{
    for (unsigned i = 0; i < 3; i++) { /* secure throughout; only the alias; nothing */
        struct scene *scene = scene_new(RIGHT);
        char expected[300];
        scene_use_tls(scene, TLS_USE_MAY);
        scene->config.relay_via = (struct config_deliver){0};
        dns_add("peer.test", 10, 1);
        dns.host[0].canonical = BYTES_LITERAL("far.example");
        dns.host[0].named_secure = true;
        dns.host[0].secure = i == 0;
        dns.alias_secure = i == 1 ? "peer.test" : NULL;
        dns.tlsa_status = LOOKUP_FOUND;
        dns.tlsa[0] = 3;
        dns.tlsa[1] = dns.tlsa[2] = 1;
        tlsa_of(scene->certificate, dns.tlsa + 3);
        scene_send(scene);
        check(scene, CAUSE_DELIVERED, STAGE_DOT, false);
        snprintf(expected, sizeof expected, "_%u._tcp.%s", scene->config.smtp_port,
                 i == 0 ? "far.example" : "peer.test");
        CHECK(strcmp(dns.tlsa_name, i == 2 ? "" : expected) == 0);
        scene_end(scene);
    }
    return 0;
}

/* RFC 8689: a proved host that offers REQUIRETLS, by a way that is known, or no host at all. */
WORLD(test_requiretls)
{
    static const char *const OFFERED[] = {
        EHLO_TLS
        "< STARTTLS\n> 220 go\ntls\n< EHLO mx.test\n> 250-peer\n> 250 REQUIRETLS\n"
        "< MAIL FROM:<a@x.test> REQUIRETLS\n> 250 ok\n< RCPT\n> 250 ok\n< DATA\n> 354 go\n.\n"
        "> 250 2.0.0 queued\n< QUIT\n> 221 bye\n",
        NULL};
    static const char *const WITHOUT[] = {
        EHLO_TLS "< STARTTLS\n> 220 go\ntls\n< EHLO mx.test\n> 250 peer\n< QUIT\n> 221 bye\n",
        NULL};
    static const struct {
        const char *const *scripts;
        bool secure;
        enum cause cause;
    } ROWS[] = {
        {OFFERED, true, CAUSE_DELIVERED},
        {WITHOUT, true, CAUSE_REQUIRETLS_UNMET},
        {STRIPPED, true, CAUSE_TLS_POLICY_UNMET},
        {NULL, false, CAUSE_REQUIRETLS_UNMET},
    };
    for (unsigned i = 0; i < COUNT_OF(ROWS); i++) {
        struct scene *scene = scene_new(ROWS[i].scripts);
        scene_use_tls(scene, TLS_USE_MAY);
        scene->config.relay_via = (struct config_deliver){0};
        scene->require_tls = true;
        dns_add("peer.test", 10, 1);
        dns.host[0].named_secure = dns.host[0].secure = ROWS[i].secure;
        dns.tlsa_status = LOOKUP_FOUND;
        dns.tlsa[0] = 3;
        dns.tlsa[1] = dns.tlsa[2] = 1;
        tlsa_of(scene->certificate, dns.tlsa + 3);
        scene_send(scene);
        check(scene, ROWS[i].cause, ROWS[i].cause == CAUSE_DELIVERED ? STAGE_DOT : STAGE_TLS,
              ROWS[i].cause == CAUSE_TLS_POLICY_UNMET);
        scene_end(scene);
    }
    return 0;
}

/* A certificate that an authority proves, or one that none does. */
WORLD(test_verify)
{
    char why[256];

    for (unsigned i = 0; i < 3; i++) { /* right; no authority; another name */
        struct scene *scene = scene_new(i == 0 ? RIGHT : LEAVES);
        scene_use_tls(scene, TLS_USE_VERIFY);
        scene->config.relay_via = (struct config_deliver){
            .kind = DELIVER_SMTP,
            .target = BYTES_LITERAL("peer"),
            .host = i == 2 ? BYTES_LITERAL("other.test") : BYTES_LITERAL("peer.test"),
            .port = scene->config.smtp_port};
        dns_add("peer.test", 0, 1);
        if (i != 1)
            CHECK(tls_context_trust(scene->settings.tls, scene->certificate, why, sizeof why));
        scene_send(scene);
        check(scene, i == 0 ? CAUSE_DELIVERED : CAUSE_TLS_POLICY_UNMET,
              i == 0 ? STAGE_DOT : STAGE_TLS, i != 0);
        scene_end(scene);
    }
    return 0;
}

/* The second session with a host goes on with the first one's keys. */
WORLD(test_resumption)
{
    static const char *const TWICE[] = {SECURED, SECURED, NULL};
    struct scene *scene = scene_new(TWICE);

    scene_use_tls(scene, TLS_USE_MAY);
    scene_send(scene);
    check(scene, CAUSE_DELIVERED, STAGE_DOT, false);
    CHECK(bytes_find(scene->outcome.tls, BYTES_LITERAL("resumed")) == scene->outcome.tls.count);
    deliver_close(scene->deliver);
    scene_send(scene);
    check(scene, CAUSE_DELIVERED, STAGE_DOT, false);
    CHECK(bytes_find(scene->outcome.tls, BYTES_LITERAL("resumed")) < scene->outcome.tls.count);
    scene_end(scene);
    return 0;
}

/* smtps:, the source address, the name in EHLO, and a login by each mechanism that is offered. */
WORLD(test_smarthost)
{
    static const char *const SMTPS[] = {
        "tls\n> 220 peer\n< EHLO out.test\n> 250-peer\n> 250 AUTH LOGIN PLAIN\n"
        "< AUTH PLAIN AHVzZXIAc2Vzw6FtZQ==\n> 235 2.7.0 in\n" TAKE,
        NULL};
    static const char *const LOGIN[] = {
        "tls\n> 220 peer\n< EHLO out.test\n> 250-peer\n> 250 AUTH LOGIN\n"
        "< AUTH LOGIN\n> 334 VXNlcm5hbWU6\n< dXNlcg==\n> 334 UGFzc3dvcmQ6\n< c2Vzw6FtZQ==\n> 235 "
        "in\n" TAKE,
        NULL};
    static const char *const WRONG[] = {
        "tls\n> 220 peer\n< EHLO out.test\n> 250-peer\n> 250 AUTH PLAIN\n"
        "< AUTH PLAIN AHVzZXIAc2Vzw6FtZQ==\n> 535 5.7.8 no\n< QUIT\n> 221 bye\n",
        NULL};
    static const char *const NONE[] = {
        "tls\n> 220 peer\n< EHLO out.test\n> 250-peer\n> 250 AUTH XOAUTH2\n"
        "< QUIT\n> 221 bye\n",
        NULL};
    /* The server that takes any answer does not know the password. */
    static const char *const FORGED[] = {
        "tls\n> 220 peer\n< EHLO out.test\n> 250-peer\n"
        "> 250 AUTH PLAIN SCRAM-SHA-256\n< AUTH SCRAM-SHA-256 biws\n"
        "> 235 2.7.0 in\n< QUIT\n> 221 bye\n",
        NULL};
    static const struct {
        const char *const *scripts;
        enum cause cause;
    } ROWS[] = {{SMTPS, CAUSE_DELIVERED},
                {LOGIN, CAUSE_DELIVERED},
                {WRONG, CAUSE_LOGIN_REFUSED},
                {NONE, CAUSE_LOGIN_REFUSED},
                {FORGED, CAUSE_LOGIN_REFUSED}};
    for (unsigned i = 0; i < COUNT_OF(ROWS); i++) {
        struct scene *scene = scene_new(ROWS[i].scripts);
        char login[128];
        scene_use_tls(scene, TLS_USE_MAY);
        scene->config.relay_via.implicit_tls = true;
        snprintf(login, sizeof login, "%s/login", scene->root);
        FILE *const file = fopen(login, "w");
        CHECK(file && fputs("user\nses\xc3\xa1me\n", file) >= 0 && fclose(file) == 0);
        CHECK(chmod(login, 0600) == 0);
        scene->config.relay_sending = (struct config_sending){
            .helo = "out.test", .login = login, .source4 = {ENDPOINT_IPV4, {127, 0, 0, 5}}};
        scene_send(scene);
        check(scene, ROWS[i].cause, i < 2 ? STAGE_DOT : STAGE_AUTH, false);
        CHECK(scene->peer.client.ip.octets[3] == 5);
        scene_end(scene);
    }
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_answers_without_a_host),
        cmocka_unit_test(test_only_ourselves),
        cmocka_unit_test(test_only_what_is_nearer_than_ourselves),
        cmocka_unit_test(test_hosts_without_address),
        cmocka_unit_test(test_next_host_after_each_failure),
        cmocka_unit_test(test_greeting_5yz),
        cmocka_unit_test(test_no_next_host_after_mail),
        cmocka_unit_test(test_address_literals),
        cmocka_unit_test(test_configured_host_name),
        cmocka_unit_test(test_opportunistic_tls),
        cmocka_unit_test(test_injected_before_the_handshake),
        cmocka_unit_test(test_tls_that_fails),
        cmocka_unit_test(test_dane_without_records),
        cmocka_unit_test(test_dane),
        cmocka_unit_test(test_tls_required_no),
        cmocka_unit_test(test_dane_of_an_alias),
        cmocka_unit_test(test_requiretls),
        cmocka_unit_test(test_verify),
        cmocka_unit_test(test_resumption),
        cmocka_unit_test(test_smarthost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
