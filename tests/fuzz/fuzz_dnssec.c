/*
 * A link of the chain of trust out of three messages, as a server could send them: records, keys, DS. Each stands behind two octets of
 * length. What does not parse takes the place of an empty one.
 */
#include "resolve/direct.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct bytes take_message(struct reader *reader)
{
    const size_t count = reader_u16(reader);
    const struct bytes message = bytes_slice(reader->rest, 0, count);

    reader->rest = bytes_skip(reader->rest, message.count);
    return message;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const struct bytes zone = BYTES_LITERAL("shop.example"), name = BYTES_LITERAL("a.shop.example");
    static const uint16_t types[] = {DNS_MX, DNS_SOA, 43, 48};
    struct reader reader = READER_OF(bytes_of(data, size));
    const struct direct_answer answer = {.message = take_message(&reader)};
    const struct direct_answer keys = {.message = take_message(&reader)};
    const struct direct_answer ds = {.message = take_message(&reader)};
    uint16_t tags[8];

    for (unsigned i = 0; i < COUNT_OF(types); i++) {
        struct dnssec_look look;
        const struct dnssec_question question = {.answer = &answer,
                                                 .keys = &keys,
                                                 .ds = i % 2 ? &ds : NULL,
                                                 .zone = zone,
                                                 .name = i % 2 ? zone : name,
                                                 .type = types[i],
                                                 .now_s = 1800000000};
        dnssec_look_at(&question, &look);
        INVARIANT(look.state <= DNSSEC_RIGHT && dnssec_algorithm_name(look.algorithm) != NULL);
    }
    INVARIANT(dnssec_link_of(&ds, &keys) <= DNSSEC_LINK_NAMED);
    INVARIANT(dnssec_key_tags(&keys, tags, COUNT_OF(tags)) <= COUNT_OF(tags));
    return 0;
}
