/*
 * A next hop's certificates and its zone's TLSA records: any bytes for either. A hash of the right
 * length alone never makes a match, and a record that RFC 7672 does not count is not counted.
 *
 * Input: usage, selector, matching (an octet each), the length of the record's data (one), that
 * data, then certificates with their length (two octets) in front.
 */
#include "crypto/crypto.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { CERTIFICATES_MOST = 4 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct tls_context *context;
    char why[256];
    struct reader reader = READER_OF(bytes_of(data, MIN_OF(size, (size_t)16384)));
    struct tlsa_record record = {.usage = reader_u8(&reader),
                                 .selector = reader_u8(&reader),
                                 .matching = reader_u8(&reader)};
    struct bytes certificates[CERTIFICATES_MOST];
    struct dane_chain chain = {.certificates = certificates};
    struct dane_words words = {""};

    if (!context)
        context = tls_context_client(why, sizeof why);
    INVARIANT(context != NULL);
    record.data = reader_bytes(&reader, reader_u8(&reader));
    while (!reader.failed && chain.count < CERTIFICATES_MOST && reader.rest.count > 2)
        certificates[chain.count++] = reader_bytes(&reader, reader_u16(&reader));
    if (reader.failed || chain.count == 0)
        return 0;
    const struct tls_peer_demand demand = {
        .server_name = "mx.example", .tlsa = &record, .tlsa_count = 1};
    const enum dane_result result = dane_match(context, &demand, &chain, &words);
    INVARIANT(result != DANE_MATCHES || record.usage == 2 || record.usage == 3);
    INVARIANT(record.usage == 2 || record.usage == 3 || result == DANE_UNUSABLE ||
              result == DANE_FAILED);
    return 0;
}
