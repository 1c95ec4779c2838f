/*
 * A report of RFC 8460 as the mail that brings it (section 5.3): words for people, and the JSON
 * compressed.
 */
#include "diagnose/diagnose.h"

#include <jansson.h>
#include <string.h>
#include <time.h>
#include <zlib.h>

#include "crypto/crypto.h"
#include "diagnose/diagnose_private.h"

enum { GZIP_WINDOW = 15 + 16, MEMORY_LEVEL = 8, LINE_OCTETS = 57 /* 76 characters of base64 */ };

static bool gzip_add(struct buffer *into, struct bytes plain)
{
    z_stream stream = {.next_in = (uint8_t *)(uintptr_t)plain.at, .avail_in = (uInt)plain.count};
    uint8_t piece[4096];
    int result = Z_OK;

    if (deflateInit2(&stream, Z_BEST_COMPRESSION, Z_DEFLATED, GZIP_WINDOW, MEMORY_LEVEL,
                     Z_DEFAULT_STRATEGY) != Z_OK)
        return false;
    while (result == Z_OK) {
        stream.next_out = piece;
        stream.avail_out = sizeof piece;
        result = deflate(&stream, Z_FINISH);
        buffer_add(into, bytes_of(piece, sizeof piece - stream.avail_out));
    }
    deflateEnd(&stream);
    return result == Z_STREAM_END && !into->failed;
}

static void add_base64_lines(struct buffer *into, struct bytes data)
{
    while (data.count > 0) {
        const struct bytes line = bytes_slice(data, 0, LINE_OCTETS);
        base64_encode(into, line);
        buffer_add_text(into, "\r\n");
        data = bytes_skip(data, line.count);
    }
}

const char *diagnose_tls_report_domain(const json_t *report)
{
    const json_t *const first = json_array_get(json_object_get(report, "policies"), 0);

    return diagnose_word(json_object_get(first, "policy"), "policy-domain");
}

void diagnose_tls_report_sessions(const json_t *report, int64_t *good, int64_t *failed)
{
    const json_t *policy = NULL;
    size_t i = 0;

    *good = *failed = 0;
    json_array_foreach(json_object_get(report, "policies"), i, policy)
    {
        const json_t *const summary = json_object_get(policy, "summary");
        *good += diagnose_number(summary, "total-successful-session-count");
        *failed += diagnose_number(summary, "total-failure-session-count");
    }
}

static int64_t seconds_of(const json_t *report, const char *member)
{
    struct tm parts = {0};
    const char *text = diagnose_word(json_object_get(report, "date-range"), member);

    return strptime(text, "%Y-%m-%dT%H:%M:%SZ", &parts) ? (int64_t)timegm(&parts) : 0;
}

static void add_head(struct buffer *into, const json_t *report, const struct tls_mail *mail)
{
    const char *const domain = diagnose_tls_report_domain(report);
    const char *const id = diagnose_word(report, "report-id");
    char date[64];

    buffer_print(into, "Date: %s\r\nFrom: <%s>\r\nTo: <%.*s>\r\n",
                 time_print_rfc5322(mail->wall_us, date, sizeof date), mail->from,
                 BYTES_PRINT(mail->to));
    buffer_print(into, "Subject: Report Domain: %s Submitter: %s\r\n Report-ID: <%s>\r\n", domain,
                 mail->hostname, id);
    buffer_print(into, "Message-ID: <%lld.%s>\r\n", (long long)mail->wall_us, id);
    buffer_print(into, "TLS-Report-Domain: %s\r\nTLS-Report-Submitter: %s\r\n", domain,
                 mail->hostname);
    /* RFC 8460 3: a report of broken TLS has to arrive all the same; RFC 8689 5 has the words. */
    buffer_add_text(into, "TLS-Required: No\r\nAuto-Submitted: auto-generated\r\n"
                          "MIME-Version: 1.0\r\n"
                          "Content-Type: multipart/report; report-type=\"tlsrpt\";\r\n"
                          " boundary=\"=_tlsrpt\"\r\n\r\n");
}

static void add_words(struct buffer *into, const json_t *report, const struct tls_mail *mail)
{
    int64_t good = 0, failed = 0;

    diagnose_tls_report_sessions(report, &good, &failed);
    buffer_add_text(into, "--=_tlsrpt\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n");
    buffer_print(into,
                 "This is a report about TLS (RFC 8460) of mail from %s\r\nto %s on %.10s (UTC): "
                 "%lld session(s) with TLS as\r\nyour policy wants it, %lld without.\r\n\r\n",
                 mail->hostname, diagnose_tls_report_domain(report),
                 diagnose_word(json_object_get(report, "date-range"), "start-datetime"),
                 (long long)good, (long long)failed);
}

bool diagnose_tls_mail(struct buffer *into, const json_t *report, const struct tls_mail *mail)
{
    char *const text = json_dumps(report, JSON_INDENT(2));
    CLEANUP(buffer_free) struct buffer packed = BUFFER_WITH_LIMIT(16 * MIB);
    const bool fine = text && gzip_add(&packed, bytes_of_text(text));

    free(text);
    if (!fine)
        return false;
    add_head(into, report, mail);
    add_words(into, report, mail);
    buffer_add_text(into, "--=_tlsrpt\r\nContent-Type: application/tlsrpt+gzip\r\n"
                          "Content-Transfer-Encoding: base64\r\n");
    buffer_print(into,
                 "Content-Disposition: attachment;\r\n filename=\"%s!%s!%lld!%lld!1.json.gz\"\r\n"
                 "\r\n",
                 mail->hostname, diagnose_tls_report_domain(report),
                 (long long)seconds_of(report, "start-datetime"),
                 (long long)seconds_of(report, "end-datetime"));
    add_base64_lines(into, buffer_view(&packed));
    buffer_add_text(into, "--=_tlsrpt--\r\n");
    return !into->failed;
}
