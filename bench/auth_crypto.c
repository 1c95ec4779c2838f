/*
 * The cryptography of verifying one signed message, alone: SHA-256 of body and header, reading the
 * key, RSA-2048, by the calls that the server makes. In a loop it prints microseconds of CPU a
 * message. Paced, it does one message's work for each 'c' that it reads, none for any other octet,
 * and echoes the octet: bench/auth_cost.py reads its CPU, and takes that off what verification adds.
 */
#include <time.h>
#include <unistd.h>

#include "crypto/crypto.h"

enum { ROUNDS = 20000, BODY_BYTES = 10 * 1024, HEAD_BYTES = 700 };

static double cpu_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static bool hash(const uint8_t *octets, size_t count, uint8_t *value)
{
    struct digest *digest = digest_open(DIGEST_SHA256);

    if (!digest)
        return false;
    digest_add(digest, bytes_of(octets, count));
    const size_t done = digest_finish(digest, (struct span){value, DIGEST_MAX});
    digest_close(&digest);
    return done == 32;
}

static struct bytes read_whole(const char *path, uint8_t *into, size_t room)
{
    FILE *file = fopen(path, "rb");
    const size_t count = file ? fread(into, 1, room, file) : 0;

    if (file)
        fclose(file);
    return bytes_of(into, count);
}

struct work {
    struct bytes record, signature;
    uint8_t value[DIGEST_MAX];
};

static bool verify(struct work *work)
{
    static uint8_t body[BODY_BYTES];
    struct public_key *public = public_key_open(KEY_RSA, work->record);
    const bool good =
        public && hash(body, sizeof body, work->value) && hash(body, HEAD_BYTES, work->value) &&
        public_key_verifies(public, bytes_of(work->value, 32), work->signature);

    public_key_close(&public);
    return good;
}

static bool in_a_loop(struct work *work)
{
    const double start_us = cpu_us();

    for (int i = 0; i < ROUNDS; i++)
        if (!verify(work))
            return false;
    printf("%.2f\n", (cpu_us() - start_us) / ROUNDS);
    return true;
}

static bool paced(struct work *work)
{
    char word;

    while (read(STDIN_FILENO, &word, 1) == 1)
        if ((word == 'c' && !verify(work)) || write(STDOUT_FILENO, &word, 1) != 1)
            return false;
    return true;
}

/* usage: auth_crypto KEY.pem KEY.der [paced]: the private key, and its public half as a record
 * holds it. */
int main(int count, char **words)
{
    static uint8_t head[HEAD_BYTES], pem[16384], der[16384], signature[1024];
    struct work work = {0};
    char why[160] = "";

    if (count < 3)
        return 2;
    struct private_key *key =
        private_key_open_pem(read_whole(words[1], pem, sizeof pem), why, sizeof why);
    work.record = read_whole(words[2], der, sizeof der);
    if (!key || !hash(head, sizeof head, work.value))
        return 1;
    const size_t length = private_key_sign(key, bytes_of(work.value, 32),
                                           (struct span){signature, sizeof signature});
    work.signature = bytes_of(signature, length);
    private_key_close(&key);
    return (count > 3 ? paced(&work) : in_a_loop(&work)) ? 0 : 1;
}
