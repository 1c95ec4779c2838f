/*
 * The keeper of private keys, asked by a worker that an attacker has taken over: any packets. It
 * answers each, stays within its key's use (the certificate's key signs no hash of mail, a key of
 * mail signs no handshake), and gives out the certificate's chain only.
 *
 * Input: packets with their length (two octets) in front.
 */
#include <sys/socket.h>
#include <unistd.h>

#include "crypto/key_wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { PACKETS_MOST = 16 };

/* The published test key of RFC 8463, appendix A. */
static const char PEM[] = "-----BEGIN PRIVATE KEY-----\n"
                          "MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n"
                          "-----END PRIVATE KEY-----\n";

static struct key_keeper *keeper_make(void)
{
    char folder[] = "/tmp/fuzz-keeper-XXXXXX", certificate[64], key[64], mail[64], why[512];

    INVARIANT(mkdtemp(folder) != NULL);
    snprintf(certificate, sizeof certificate, "%s/cert.pem", folder);
    snprintf(key, sizeof key, "%s/key.pem", folder);
    snprintf(mail, sizeof mail, "%s/mail.pem", folder);
    FILE *file = fopen(mail, "w");
    INVARIANT(file && fputs(PEM, file) >= 0 && fclose(file) == 0);
    INVARIANT(tls_make_self_signed("mx.example", certificate, key, why, sizeof why));
    const struct key_file files[] = {{"mail", mail}};
    const struct key_keeper_settings settings = {certificate, key, files, COUNT_OF(files)};
    struct key_keeper *keeper = key_keeper_open(&settings, why, sizeof why);
    INVARIANT(keeper != NULL);
    unlink(certificate);
    unlink(key);
    unlink(mail);
    rmdir(folder);
    return keeper;
}

static void check_answer(const struct key_request *request, size_t asked,
                         const struct key_answer *answer, size_t count)
{
    INVARIANT(count >= KEY_ANSWER_HEAD && answer->count == count - KEY_ANSWER_HEAD);
    INVARIANT((answer->fine != 0) == (answer->count > 0));
    if (!answer->fine)
        return;
    INVARIANT(asked >= KEY_REQUEST_HEAD && request->count == asked - KEY_REQUEST_HEAD);
    INVARIANT(request->key <= 1);
    switch ((enum key_operation)request->operation) {
    case KEY_DESCRIBE:
        break;
    case KEY_CHAIN:
        INVARIANT(request->key == 0 && bytes_find(bytes_of(answer->data, answer->count),
                                                  BYTES_LITERAL("PRIVATE")) == answer->count);
        break;
    case KEY_SIGN_ECDSA:
        INVARIANT(request->key == 0 && request->count >= 20 && request->count <= DIGEST_MAX);
        break;
    case KEY_SIGN_HASH:
        INVARIANT(request->key == 1 && request->count == 32);
        break;
    case KEY_NONE:
    case KEY_SIGN_PKCS1:
    case KEY_SIGN_PADDED: /* of RSA keys, and there is none */
        INVARIANT(false);
    }
}

static unsigned send_packets(int descriptor, struct bytes rest, struct bytes *packets)
{
    unsigned count = 0;

    while (count < PACKETS_MOST && rest.count > 2) {
        const size_t length = (size_t)rest.at[0] << 8 | rest.at[1];
        const struct bytes packet = bytes_slice(bytes_skip(rest, 2), 0, length);
        if (packet.count == 0 ||
            send(descriptor, packet.at, packet.count, MSG_DONTWAIT) != (ssize_t)packet.count)
            break;
        packets[count++] = packet;
        rest = bytes_skip(rest, 2 + packet.count);
    }
    return count;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct key_keeper *keeper;
    static struct key_answer answer;
    struct bytes packets[PACKETS_MOST];
    int pair[2];

    if (!keeper)
        keeper = keeper_make();
    INVARIANT(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
    const unsigned count =
        send_packets(pair[0], bytes_of(data, MIN_OF(size, (size_t)8192)), packets);
    shutdown(pair[0], SHUT_WR);
    key_keeper_serve(keeper, pair[1]);
    close(pair[1]);
    for (unsigned i = 0; i < count; i++) {
        struct key_request request = {0};
        const ssize_t got = recv(pair[0], &answer, sizeof answer, 0);
        memcpy(&request, packets[i].at, MIN_OF(packets[i].count, sizeof request));
        INVARIANT(got > 0);
        check_answer(&request, packets[i].count, &answer, (size_t)got);
    }
    INVARIANT(recv(pair[0], &answer, sizeof answer, 0) == 0);
    close(pair[0]);
    return 0;
}
