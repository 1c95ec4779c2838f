/*
 * `spf`, `auth` and `sign`: authentication from the command line, with the code that the server
 * uses.
 */
#include "app/app.h"

#include <errno.h>
#include <jansson.h>
#include <string.h>

#include "auth/auth.h"
#include "crypto/crypto.h"
#include "resolve/resolve.h"
#include "runtime/runtime.h"

enum { WHY_ROOM = 512, AUTH_PATIENCE_S = 60 };
#define AUTH_ARENA_BYTES (64 * MIB)
#define FILE_BYTES_MAX (256 * MIB)

/* One command's work inside a world. */
struct auth_job {
    const struct command_line *line;
    struct arena arena;
    struct buffer message; /* CRLF line ends */
    struct auth_dns dns;
    struct spf_request request;
    json_t *answer;
    int (*work)(struct auth_job *job);
};

/* ------------------------------------------------------------------ input */

/* Files on disk often have LF line ends; signatures are over CRLF. */
static void add_with_crlf(struct buffer *into, struct bytes text)
{
    for (size_t i = 0; i < text.count; i++) {
        if (text.at[i] == '\n' && (i == 0 || text.at[i - 1] != '\r'))
            buffer_add_byte(into, '\r');
        buffer_add_byte(into, text.at[i]);
    }
}

static bool read_all(FILE *file, struct buffer *into)
{
    uint8_t piece[65536];
    size_t got;

    while ((got = fread(piece, 1, sizeof piece, file)) > 0)
        buffer_add(into, bytes_of(piece, got));
    return !ferror(file) && !into->failed;
}

static bool read_file(const char *path, struct buffer *into)
{
    const bool standard = strcmp(path, "-") == 0;
    FILE *file = standard ? stdin : fopen(path, "rb");
    const bool whole = file && read_all(file, into);

    if (!whole)
        fprintf(stderr, "holdfast: %s: %s\n", path, into->failed ? "too large" : strerror(errno));
    if (file && !standard)
        fclose(file);
    return whole;
}

static bool read_message(struct auth_job *job, const char *path)
{
    CLEANUP(buffer_free) struct buffer raw = BUFFER_WITH_LIMIT(FILE_BYTES_MAX);

    job->message = BUFFER_WITH_LIMIT(2 * FILE_BYTES_MAX);
    if (!read_file(path, &raw))
        return false;
    add_with_crlf(&job->message, buffer_view(&raw));
    return !job->message.failed;
}

/* "user@domain", "<>" or "" for the null sender; a bare domain is one without a local part. */
static struct address parse_sender(struct bytes text)
{
    const size_t at = bytes_find_last_byte(text, '@');

    if (bytes_equal_text(text, "<>"))
        text = BYTES_EMPTY;
    if (at < text.count)
        return (struct address){bytes_slice(text, 0, at), bytes_skip(text, at + 1)};
    return (struct address){BYTES_EMPTY, text};
}

static bool parse_request(struct auth_job *job)
{
    const struct command_line *line = job->line;

    if (!line->ip || !line->helo || !line->from) {
        fputs("holdfast: --ip, --helo and --from are needed\n", stderr);
        return false;
    }
    if (!ip_parse(bytes_of_text(line->ip), &job->request.client)) {
        fprintf(stderr, "holdfast: --ip %s is no IP address\n", line->ip);
        return false;
    }
    job->request.helo = bytes_of_text(line->helo);
    job->request.from = parse_sender(bytes_of_text(line->from));
    job->request.receiver = "localhost";
    return true;
}

/* ------------------------------------------------------------------ the world */

static bool job_open_resolver(struct auth_job *job)
{
    struct endpoint forward[COMMAND_WORDS_MAX];
    char why[WHY_ROOM];
    struct resolver_settings settings = {.forward = forward, .timeout_us = 10 * US_PER_S};

    for (unsigned i = 0; i < job->line->resolver_count; i++) {
        if (!endpoint_parse_resolver(bytes_of_text(job->line->resolvers[i]), &forward[i])) {
            fprintf(stderr, "holdfast: --resolver %s is no IP[@PORT]\n", job->line->resolvers[i]);
            return false;
        }
        settings.forward_count++;
    }
    job->dns = (struct auth_dns){.resolver = resolver_open(&settings, why, sizeof why),
                                 .arena = &job->arena,
                                 .deadline_us = deadline_in(AUTH_PATIENCE_S * US_PER_S)};
    if (!job->dns.resolver)
        fprintf(stderr, "holdfast: %s\n", why);
    return job->dns.resolver != NULL;
}

static int job_main(void *argument)
{
    struct auth_job *job = argument;

    if (!job_open_resolver(job))
        return EXIT_FINDINGS;
    const int code = job->work(job);
    resolver_close(job->dns.resolver);
    return code;
}

static int job_run(struct auth_job *job)
{
    job->arena = ARENA_WITH_LIMIT(AUTH_ARENA_BYTES);
    int code = world_run(job_main, job, 1);

    if (code == EXIT_FINE && job->answer)
        code = app_print_json(job->answer);
    buffer_free(&job->message);
    arena_clear(&job->arena);
    return code;
}

/* ------------------------------------------------------------------ answers */

static json_t *text_of(struct bytes view)
{
    json_t *text = json_stringn((const char *)view.at, view.count);

    return text ? text : json_string("");
}

static json_t *spf_json(const struct spf_facts *facts)
{
    return json_pack("{s:s, s:o, s:o, s:o, s:o, s:i, s:i}", "result",
                     auth_result_name(facts->result), "domain", text_of(facts->domain), "mechanism",
                     text_of(facts->mechanism), "explanation", text_of(facts->explanation),
                     "problem", text_of(facts->problem), "lookups", (int)facts->lookups,
                     "void_lookups", (int)facts->void_lookups);
}

static json_t *dkim_json(const struct dkim_report *report)
{
    json_t *list = json_array();

    for (unsigned i = 0; i < report->count; i++) {
        const struct dkim_facts *one = &report->facts[i];
        json_array_append_new(list,
                              json_pack("{s:s, s:o, s:o, s:o, s:o, s:b}", "result",
                                        auth_result_name(one->result), "domain",
                                        text_of(one->domain), "selector", text_of(one->selector),
                                        "algorithm", text_of(one->algorithm), "reason",
                                        text_of(one->reason), "testing", one->testing));
    }
    return list;
}

static json_t *dmarc_json(const struct dmarc_facts *facts)
{
    const bool failed = facts->result == AUTH_FAIL;

    return json_pack(
        "{s:s, s:o, s:o, s:o, s:s, s:s, s:b, s:b, s:o}", "result", auth_result_name(facts->result),
        "domain", text_of(facts->author_domain), "policy_domain", text_of(facts->policy_domain),
        "organizational_domain", text_of(facts->organizational_domain), "policy",
        dmarc_policy_name(facts->policy), "disposition",
        failed ? dmarc_policy_name(facts->policy) : "none", "spf_aligned", facts->spf_aligned,
        "dkim_aligned", facts->dkim_aligned, "reason", text_of(facts->reason));
}

static int work_spf(struct auth_job *job)
{
    struct spf_facts facts;

    spf_check(&job->dns, &job->request, &facts);
    job->answer = spf_json(&facts);
    return EXIT_FINE;
}

static int work_auth(struct auth_job *job)
{
    struct spf_facts spf;
    struct dkim_report dkim_report;
    struct arc_facts arc;
    struct dmarc_facts dmarc;
    CLEANUP(dkim_close) struct dkim *dkim = dkim_open(&job->arena);
    CLEANUP(buffer_free) struct buffer results = BUFFER_WITH_LIMIT(64 * KIB);
    const struct bytes message = buffer_view(&job->message);

    if (!dkim)
        return EXIT_FINDINGS;
    spf_check(&job->dns, &job->request, &spf);
    dkim_add(dkim, message);
    dkim_finish(dkim, &job->dns, &dkim_report);
    arc_finish(dkim, &job->dns, &arc);
    dmarc_check(&job->dns, bytes_slice(message, 0, header_end(message)), &spf, &dkim_report,
                &dmarc);
    const struct auth_facts facts = {.authserv_id = "localhost",
                                     .spf_request = &job->request,
                                     .spf = &spf,
                                     .dkim = &dkim_report,
                                     .arc = &arc,
                                     .dmarc = &dmarc,
                                     .client = job->request.client};
    authres_print(&results, &facts);
    job->answer =
        json_pack("{s:o, s:o, s:{s:s, s:i, s:o}, s:o, s:o}", "spf", spf_json(&spf), "dkim",
                  dkim_json(&dkim_report), "arc", "result", auth_result_name(arc.result),
                  "instances", (int)arc.instances, "reason", text_of(arc.reason), "dmarc",
                  dmarc_json(&dmarc), "authentication_results", text_of(buffer_view(&results)));
    return EXIT_FINE;
}

static struct io_result read_memory(void *argument, struct span into, uint64_t offset)
{
    const struct buffer *message = argument;
    const struct bytes piece = bytes_slice(buffer_view(message), (size_t)offset, into.count);

    if (piece.count > 0)
        memcpy(into.at, piece.at, piece.count);
    return io_ok(piece.count);
}

static bool seal(struct auth_job *job, const struct dkim_signer *signer, struct buffer *into,
                 char *why)
{
    CLEANUP(dkim_close) struct dkim *dkim = dkim_open(&job->arena);
    struct dkim_report report;
    struct arc_facts arc;
    const struct auth_source source = {read_memory, &job->message, job->message.count};

    if (!dkim)
        return false;
    dkim_add(dkim, buffer_view(&job->message));
    dkim_finish(dkim, &job->dns, &report);
    arc_finish(dkim, &job->dns, &arc);
    const struct auth_facts facts = {.authserv_id = signer->domain, .dkim = &report, .arc = &arc};
    CLEANUP(buffer_free) struct buffer results = BUFFER_WITH_LIMIT(64 * KIB);
    authres_print(&results, &facts);
    const struct bytes value = bytes_skip(buffer_view(&results), strlen(signer->domain) + 1);
    const struct arc_sealer sealer = {.signer = *signer,
                                      .authentication_results = bytes_trim(value),
                                      .authserv_id = signer->domain,
                                      .chain = arc.result};
    return arc_seal(&sealer, &source, into, why, WHY_ROOM);
}

static int work_sign(struct auth_job *job)
{
    const struct command_line *line = job->line;
    const struct auth_source source = {read_memory, &job->message, job->message.count};
    CLEANUP(buffer_free) struct buffer pem = BUFFER_WITH_LIMIT(MIB);
    CLEANUP(buffer_free) struct buffer fields = BUFFER_WITH_LIMIT(MIB);
    char why[WHY_ROOM] = "out of memory";

    if (!read_file(line->key, &pem))
        return EXIT_FINDINGS;
    struct private_key *key = private_key_open_pem(buffer_view(&pem), why, sizeof why);
    const struct dkim_signer signer = {
        .domain = line->domain, .selector = line->selector, .key = key, .wall_us = clock_wall_us()};
    const bool is_signed =
        key && (line->arc ? seal(job, &signer, &fields, why)
                          : dkim_sign(&signer, &source, &fields, why, sizeof why));
    private_key_close(&key);
    if (!is_signed) {
        fprintf(stderr, "holdfast: %s: %s\n", line->key, why);
        return EXIT_FINDINGS;
    }
    const bool written =
        fwrite(fields.at, 1, fields.count, stdout) == fields.count &&
        fwrite(job->message.at, 1, job->message.count, stdout) == job->message.count &&
        fflush(stdout) == 0;
    return written ? EXIT_FINE : EXIT_FINDINGS;
}

/* ------------------------------------------------------------------ commands */

int command_spf(const struct command_line *line)
{
    struct auth_job job = {.line = line, .work = work_spf};

    return parse_request(&job) ? job_run(&job) : EXIT_USAGE;
}

int command_auth(const struct command_line *line)
{
    struct auth_job job = {.line = line, .work = work_auth};

    if (line->word_count != 2) {
        fputs("usage: holdfast auth FILE --ip IP --helo H --from A\n", stderr);
        return EXIT_USAGE;
    }
    if (!parse_request(&job))
        return EXIT_USAGE;
    return read_message(&job, line->words[1]) ? job_run(&job) : EXIT_FINDINGS;
}

int command_sign(const struct command_line *line)
{
    struct auth_job job = {.line = line, .work = work_sign};

    if (line->word_count != 2 || !line->domain || !line->selector || !line->key) {
        fputs("usage: holdfast sign FILE --domain D --selector S --key PEM [--arc]\n", stderr);
        return EXIT_USAGE;
    }
    return read_message(&job, line->words[1]) ? job_run(&job) : EXIT_FINDINGS;
}
