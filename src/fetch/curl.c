/*
 * The seam to libcurl: fetch_https, and nothing else. The simulator links its own instead.
 *
 * libcurl blocks and wants more stack than a fiber has. The worker pool serves the disk and must
 * not wait for a slow web server, so each fetch has a thread of its own; it is rare, and their
 * number is bounded.
 */
#include "fetch/fetch.h"

#include <curl/curl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

enum { THREAD_STACK = 512 * KIB, HEADER_MAX = 32 * KIB, HTTPS_PORT = 443, ADDRESSES_MAX = 16 };

struct fetch {
    const struct fetch_request *request;
    struct fiber *fiber;
    CURL *curl;
    struct curl_slist *addresses;
    struct buffer body;
    size_t header_bytes;
    char type[128];
    char words[CURL_ERROR_SIZE];
    bool too_large;
    long status;
    CURLcode code;
    atomic_bool stop, ended;
};

static atomic_uint fetches;

/* ------------------------------------------------------------------ in the thread */

static size_t take_body(char *from, size_t size, size_t count, void *argument)
{
    struct fetch *fetch = argument;

    buffer_add(&fetch->body, bytes_of(from, size * count));
    fetch->too_large = fetch->too_large || fetch->body.failed;
    return fetch->body.failed ? 0 : size * count;
}

static size_t take_header(char *from UNUSED, size_t size, size_t count, void *argument)
{
    struct fetch *fetch = argument;

    fetch->header_bytes += size * count;
    fetch->too_large = fetch->too_large || fetch->header_bytes > HEADER_MAX;
    return fetch->header_bytes > HEADER_MAX ? 0 : size * count;
}

/* libcurl calls it once a second at least. */
static int look_up(void *argument, curl_off_t total UNUSED, curl_off_t now UNUSED,
                   curl_off_t up_total UNUSED, curl_off_t up_now UNUSED)
{
    const struct fetch *fetch = argument;

    return atomic_load(&fetch->stop);
}

static void *fetch_main(void *argument)
{
    struct fetch *fetch = argument;
    const char *type = NULL;

    fetch->code = curl_easy_perform(fetch->curl);
    curl_easy_getinfo(fetch->curl, CURLINFO_RESPONSE_CODE, &fetch->status);
    curl_easy_getinfo(fetch->curl, CURLINFO_CONTENT_TYPE, &type);
    snprintf(fetch->type, sizeof fetch->type, "%s", type ? type : "");
    struct fiber *const fiber = fetch->fiber;
    atomic_store(&fetch->ended, true);
    fiber_wake(fiber);
    return NULL;
}

/* ------------------------------------------------------------------ the request */

/* "HOST:PORT:ADDRESS,ADDRESS": libcurl then asks nobody else. */
static bool request_addresses(struct fetch *fetch)
{
    const struct fetch_request *request = fetch->request;
    const unsigned port = request->port ? request->port : HTTPS_PORT;
    CLEANUP(buffer_free) struct buffer line = BUFFER_WITH_LIMIT(4 * KIB);
    char text[ENDPOINT_TEXT_MAX];

    buffer_print(&line, "%s:%u:", request->host, port);
    for (unsigned i = 0; i < request->address_count && i < ADDRESSES_MAX; i++) {
        const struct ip_address *ip = &request->addresses[i];
        const bool v6 = ip->family == ENDPOINT_IPV6;
        buffer_print(&line, "%s%s%s%s", i > 0 ? "," : "", v6 ? "[" : "",
                     ip_print(ip, text, sizeof text), v6 ? "]" : "");
    }
    buffer_add(&line, BYTES_LITERAL("\0"));
    fetch->addresses = line.failed ? NULL : curl_slist_append(NULL, (const char *)line.at);
    return fetch->addresses != NULL;
}

static bool request_limits(struct fetch *fetch)
{
    CURL *curl = fetch->curl;
    const uint64_t now_us = clock_now_us(), end_us = fetch->request->deadline_us;
    const uint64_t left_ms = end_us > now_us ? (end_us - now_us) / US_PER_MS + 1 : 1;

    return curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long)MIN_OF(left_ms, (uint64_t)600000)) ==
               CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 0L) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_PROXY, "") == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "https") == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_HTTP09_ALLOWED, 0L) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_USERAGENT, "holdfast") == CURLE_OK;
}

static bool request_trust(struct fetch *fetch)
{
    CURL *curl = fetch->curl;
    const char *authorities = fetch->request->authorities;

    if (curl_easy_setopt(curl, CURLOPT_SSL_VERIFYPEER, 1L) != CURLE_OK ||
        curl_easy_setopt(curl, CURLOPT_SSL_VERIFYHOST, 2L) != CURLE_OK ||
        curl_easy_setopt(curl, CURLOPT_SSLVERSION, CURL_SSLVERSION_TLSv1_2) != CURLE_OK)
        return false;
    if (!authorities || !*authorities)
        return true;
    return curl_easy_setopt(curl, CURLOPT_CAINFO, authorities) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_CAPATH, NULL) == CURLE_OK;
}

static bool request_sinks(struct fetch *fetch)
{
    CURL *curl = fetch->curl;

    return curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_body) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_WRITEDATA, fetch) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, take_header) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_HEADERDATA, fetch) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, look_up) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_XFERINFODATA, fetch) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L) == CURLE_OK &&
           curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, fetch->words) == CURLE_OK;
}

static bool request_prepare(struct fetch *fetch)
{
    const struct fetch_request *request = fetch->request;
    char url[1024];
    const int count = snprintf(url, sizeof url, "https://%s:%u%s", request->host,
                               request->port ? request->port : HTTPS_PORT, request->path);

    fetch->curl = curl_easy_init();
    return fetch->curl && count > 0 && (size_t)count < sizeof url && request_addresses(fetch) &&
           curl_easy_setopt(fetch->curl, CURLOPT_URL, url) == CURLE_OK &&
           curl_easy_setopt(fetch->curl, CURLOPT_RESOLVE, fetch->addresses) == CURLE_OK &&
           request_limits(fetch) && request_trust(fetch) && request_sinks(fetch);
}

/* ------------------------------------------------------------------ the fiber's side */

static bool thread_start(pthread_t *thread, struct fetch *fetch)
{
    pthread_attr_t attributes;
    bool started = false;

    if (pthread_attr_init(&attributes) != 0)
        return false;
    if (pthread_attr_setstacksize(&attributes, THREAD_STACK) == 0)
        started = pthread_create(thread, &attributes, fetch_main, fetch) == 0;
    pthread_attr_destroy(&attributes);
    return started;
}

/* A cancelled fiber waits on, since the thread uses its memory, but not for long. */
static bool thread_wait(pthread_t thread, struct fetch *fetch)
{
    bool cancelled = false, masked = false;

    while (!atomic_load(&fetch->ended)) {
        if (fiber_park(DEADLINE_NEVER) != IO_CANCELLED)
            continue;
        cancelled = true;
        atomic_store(&fetch->stop, true);
        masked = fiber_mask_cancel(true);
    }
    if (cancelled)
        fiber_mask_cancel(masked);
    return pthread_join(thread, NULL) == 0;
}

static void answer_type(struct arena *arena, const char *from, struct fetch_answer *answer)
{
    struct bytes type = BYTES_EMPTY;

    bytes_cut(bytes_of_text(from), ';', &type);
    char *const copy = arena_text(arena, bytes_trim(type));
    for (char *at = copy; at && *at; at++)
        *at = (char)ascii_lower((uint8_t)*at);
    answer->type = bytes_of_text(copy ? copy : "");
}

static void answer_fill(struct arena *arena, const struct fetch *fetch, struct fetch_answer *answer)
{
    if (fetch->code == CURLE_OK) {
        answer->outcome = FETCH_ANSWERED;
        answer->status = (unsigned)fetch->status;
        answer->body = arena_copy(arena, buffer_view(&fetch->body));
        answer_type(arena, fetch->type, answer);
        if (!arena->failed)
            return;
        *answer = (struct fetch_answer){.why = "out of memory"};
        return;
    }
    if (fetch->code == CURLE_PEER_FAILED_VERIFICATION)
        answer->outcome = FETCH_UNTRUSTED;
    const char *const words = fetch->too_large  ? "the answer is too large"
                              : fetch->words[0] ? fetch->words
                                                : curl_easy_strerror(fetch->code);
    snprintf(answer->why, sizeof answer->why, "%.150s", words);
}

/* Once; while it fails, for want of memory, each time. */
static bool curl_begin(void)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    static bool begun;

    pthread_mutex_lock(&lock);
    begun = begun || curl_global_init(CURL_GLOBAL_ALL) == CURLE_OK;
    const bool is_begun = begun;
    pthread_mutex_unlock(&lock);
    return is_begun;
}

static void fetch_run(struct arena *arena, struct fetch *fetch, struct fetch_answer *answer)
{
    pthread_t thread;

    if (!curl_begin() || !request_prepare(fetch))
        snprintf(answer->why, sizeof answer->why, "libcurl could not be set up");
    else if (!thread_start(&thread, fetch))
        snprintf(answer->why, sizeof answer->why, "no thread");
    else if (thread_wait(thread, fetch))
        answer_fill(arena, fetch, answer);
}

void fetch_https(struct arena *arena, const struct fetch_request *request,
                 struct fetch_answer *answer)
{
    struct fetch *fetch = calloc(1, sizeof *fetch);

    *answer = (struct fetch_answer){.why = "out of memory"};
    if (!fetch)
        return;
    fetch->request = request;
    fetch->fiber = fiber_self();
    fetch->body = BUFFER_WITH_LIMIT(request->bytes_max ? request->bytes_max : FETCH_BYTES_MAX);
    answer->why[0] = 0;
    if (request->address_count == 0)
        snprintf(answer->why, sizeof answer->why, "the host has no address");
    else if (atomic_fetch_add(&fetches, 1) >= FETCH_PARALLEL_MAX)
        snprintf(answer->why, sizeof answer->why, "too many fetches at once");
    else
        fetch_run(arena, fetch, answer);
    if (request->address_count > 0)
        atomic_fetch_sub(&fetches, 1);
    curl_slist_free_all(fetch->addresses);
    curl_easy_cleanup(fetch->curl);
    buffer_free(&fetch->body);
    free(fetch);
}
