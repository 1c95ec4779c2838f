/*
 * DANE against OpenSSL's own table (vectors/dane-openssl), all 54 blocks: by RFC 7672 only usages 2
 * and 3 count, so blocks with nothing else must be unusable. SKIP where the material is absent.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "crypto/crypto.h"

enum { PATH_ROOM = 4096, ITEMS_MOST = 16 };

struct block {
    struct tlsa_record records[ITEMS_MOST];
    struct bytes chain[ITEMS_MOST];
    unsigned record_count, chain_count;
    unsigned records_due, chain_due;
    int no_name_checks, result;
};

static struct arena arena = ARENA_WITH_LIMIT(64 * MIB);
static unsigned passed, differs, failed;

static struct bytes from_hex(struct bytes hex)
{
    uint8_t *octets = arena_take(&arena, hex.count / 2 + 1);

    for (size_t i = 0; i + 1 < hex.count; i += 2)
        octets[i / 2] = (uint8_t)(ascii_hex_value(hex.at[i]) * 16 + ascii_hex_value(hex.at[i + 1]));
    return bytes_of(octets, hex.count / 2);
}

static struct bytes word(struct bytes *line)
{
    struct bytes head = BYTES_EMPTY;

    *line = bytes_trim(bytes_cut(bytes_trim(*line), ' ', &head));
    return head;
}

static int number(struct bytes *line)
{
    const struct bytes digits = word(line);
    uint64_t value = 0;

    return bytes_to_u64(digits, &value) ? (int)value : -1;
}

static void read_head(struct block *block, struct bytes line)
{
    *block = (struct block){0};
    block->records_due = (unsigned)number(&line);
    block->chain_due = (unsigned)number(&line);
    block->no_name_checks = number(&line);
    block->result = number(&line);
}

static void read_record(struct block *block, struct bytes line)
{
    struct tlsa_record *record = &block->records[block->record_count++];

    record->usage = (uint8_t)number(&line);
    record->selector = (uint8_t)number(&line);
    record->matching = (uint8_t)number(&line);
    record->data = from_hex(word(&line));
}

static bool counts_for_smtp(const struct block *block)
{
    for (unsigned i = 0; i < block->record_count; i++)
        if (block->records[i].usage == 2 || block->records[i].usage == 3)
            return true;
    return false;
}

static void judge(struct tls_context *context, const struct block *block, unsigned line)
{
    const struct tls_peer_demand demand = {
        .server_name = "example.com", .tlsa = block->records, .tlsa_count = block->record_count};
    const struct dane_chain chain = {block->chain, block->chain_count};
    struct dane_words words;
    const enum dane_result got = dane_match(context, &demand, &chain, &words);
    const enum dane_result wanted = !counts_for_smtp(block) ? DANE_UNUSABLE
                                    : block->result == 0    ? DANE_MATCHES
                                                            : DANE_NO_MATCH;

    if (got == wanted) {
        passed++;
    } else if (block->result == 62 && got == DANE_MATCHES && !block->no_name_checks) {
        printf(
            "differs dane-openssl: line %u: with usage 3 names are not compared (RFC 7672 3.1.1)\n",
            line);
        differs++;
    } else {
        printf("not ok dane-openssl: line %u: got %d (%s), wanted %d\n", line, (int)got, words.why,
               (int)wanted);
        failed++;
    }
}

static const char *shared_path(char *into)
{
    const char *shared = getenv("HOLDFAST_SHARED");

    snprintf(into, PATH_ROOM, "%s/vectors/dane-openssl/danetest.in", shared ? shared : "../shared");
    return into;
}

static struct bytes read_whole(const char *path)
{
    static char text[MIB];
    FILE *file = fopen(path, "rb");
    const size_t count = file ? fread(text, 1, sizeof text, file) : 0;

    if (file)
        fclose(file);
    return bytes_of(text, count);
}

/* One line of the file: `in_certificate` collects base 64 until the end mark. */
static void take_line(struct tls_context *context, struct block *block, struct bytes line,
                      unsigned number_of_line)
{
    static struct buffer base64 = BUFFER_WITH_LIMIT(64 * KIB);
    static bool in_certificate;

    if (bytes_starts_with(line, BYTES_LITERAL("-----BEGIN"))) {
        in_certificate = true;
        buffer_clear(&base64);
    } else if (bytes_starts_with(line, BYTES_LITERAL("-----END"))) {
        in_certificate = false;
        INVARIANT(base64_decode(&arena, arena_copy(&arena, buffer_view(&base64)),
                                &block->chain[block->chain_count]));
        block->chain_count++;
        if (block->chain_count == block->chain_due)
            judge(context, block, number_of_line);
        if (block->chain_count == block->chain_due)
            *block = (struct block){0};
    } else if (in_certificate) {
        buffer_add(&base64, line);
    } else if (line.count == 0 || line.at[0] == '#') {
        return;
    } else if (block->records_due == 0) {
        read_head(block, line);
    } else if (block->record_count < block->records_due) {
        read_record(block, line);
    }
}

int main(void)
{
    char path[PATH_ROOM], why[160];
    struct block block = {0};
    struct tls_context *context = tls_context_client(why, sizeof why);

    INVARIANT(context != NULL);
    if (access(shared_path(path), R_OK) != 0) {
        puts("SKIP ../shared is absent\n0 passed, 0 failed, 1 skipped");
        tls_context_free(context);
        return 0;
    }
    struct bytes rest = read_whole(path);
    for (unsigned i = 1; rest.count > 0; i++) {
        struct bytes line = BYTES_EMPTY;
        rest = bytes_cut(rest, '\n', &line);
        take_line(context, &block, bytes_trim(line), i);
    }
    tls_context_free(context);
    arena_clear(&arena);
    printf("corpus dane-openssl: %u passed, %u differ, %u failed\n%u passed, %u failed\n", passed,
           differs, failed, passed + differs, failed);
    return failed > 0 || passed == 0;
}
