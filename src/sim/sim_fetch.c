/*
 * The seam of `fetch` in the simulated world: documents from a table, in seeded time. A host that
 * has none refuses the connection.
 */
#include "fetch/fetch.h"
#include "sim/inside.h"

#include <string.h>

enum { DOCUMENTS_MOST = 64, HOST_ROOM = 256 };

static struct {
    struct {
        char host[HOST_ROOM];
        struct sim_document document;
        uint64_t given_us;
    } rows[DOCUMENTS_MOST];
    size_t count;
    uint64_t fetched;
} documents;

void sim_document_put(const char *host, const struct sim_document *document)
{
    size_t at = 0;

    while (at < documents.count && strcmp(documents.rows[at].host, host) != 0)
        at++;
    INVARIANT(at < DOCUMENTS_MOST && strlen(host) < HOST_ROOM);
    documents.count = MAX_OF(documents.count, at + 1);
    snprintf(documents.rows[at].host, HOST_ROOM, "%s", host);
    documents.rows[at].document = *document;
}

uint64_t sim_documents_fetched(void)
{
    return documents.fetched;
}

void documents_forget(void)
{
    memset(&documents, 0, sizeof documents);
}

static size_t find(const char *host)
{
    size_t at = 0;

    while (at < documents.count && strcmp(documents.rows[at].host, host) != 0)
        at++;
    return at;
}

uint64_t sim_document_given_us(const char *host)
{
    const size_t at = find(host);

    return at < documents.count ? documents.rows[at].given_us : 0;
}

static void answer_from(struct arena *arena, const struct fetch_request *request,
                        const struct sim_document *document, struct fetch_answer *answer)
{
    const struct bytes body = bytes_of_text(document->body ? document->body : "");

    if (document->untrusted) {
        answer->outcome = FETCH_UNTRUSTED;
        snprintf(answer->why, sizeof answer->why, "the certificate proves another name");
    } else if (document->status == 0) {
        snprintf(answer->why, sizeof answer->why, "connection refused");
    } else if (body.count > (request->bytes_max ? request->bytes_max : FETCH_BYTES_MAX)) {
        snprintf(answer->why, sizeof answer->why, "the answer is too large");
    } else {
        *answer = (struct fetch_answer){.outcome = FETCH_ANSWERED,
                                        .status = document->status,
                                        .type = BYTES_LITERAL("text/plain"),
                                        .body = arena_copy(arena, body)};
    }
}

void fetch_https(struct arena *arena, const struct fetch_request *request,
                 struct fetch_answer *answer)
{
    static const struct sim_document nothing = {0};

    *answer = (struct fetch_answer){0};
    sim_die_if_crashed();
    documents.fetched++;
    trace_bytes("fetch", request->address_count, bytes_of_text(request->host));
    const size_t row = find(request->host);
    const struct sim_document document =
        row < documents.count ? documents.rows[row].document : nothing;
    const bool hangs = document.hangs;
    const uint64_t ready_us =
        hangs ? request->deadline_us : deadline_in(chance_between(500, 80000));
    if (fiber_sleep_until(MIN_OF(ready_us, request->deadline_us)) != IO_OK ||
        ready_us >= request->deadline_us) {
        snprintf(answer->why, sizeof answer->why, "no answer in time");
        return;
    }
    answer_from(arena, request, &document, answer);
    if (row < documents.count && !document.spoilt && answer->outcome == FETCH_ANSWERED &&
        answer->status == 200)
        documents.rows[row].given_us = clock_now_us();
}
