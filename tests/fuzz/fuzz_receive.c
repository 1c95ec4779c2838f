/*
 * A whole session from arbitrary bytes. Whatever a client says: the same bytes cut in other places
 * give the same replies and the same messages; each message said to be accepted is stored, and no
 * other; nothing stored has a bare CR, a bare LF or NUL in it; no draft is left open; every reply
 * is well formed.
 */
#include "../unit/receive_house.h"

#ifndef FUZZ_LISTEN_KIND
#define FUZZ_LISTEN_KIND LISTEN_SMTP
#endif
#ifndef FUZZ_VOUCHED
#define FUZZ_VOUCHED 0
#endif

struct session_seen {
    struct buffer said;
    struct buffer stored; /* all messages in a row */
    unsigned stored_count;
};

static struct bytes fuzz_input;

static struct session_seen play(struct bytes input, size_t fragment)
{
    struct session_seen seen = {.stored = BUFFER_WITH_LIMIT(64 * MIB)};
    struct memory_stream stream = memory_stream_of(input);
    struct receive receive;

    stream.fragment = fragment;
    stream.stream.remote = (struct endpoint){
        .family = ENDPOINT_IPV4, .ip = {ENDPOINT_IPV4, {192, 0, 2, 77}}, .port = 4711};
    house_open(&receive);
    house_play(&receive, &stream);
    seen.said = stream.written;
    seen.stored_count = house.stored_count;
    for (unsigned i = 0; i < house.stored_count; i++) {
        const struct bytes whole = buffer_view(&house.stored[i]);
        /* What was received; the Received field in front has the time in it. */
        const struct bytes received = bytes_skip(whole, house.front_count[i]);
        buffer_add(&seen.stored, received);
    }
    house_clear();
    return seen;
}

static bool is_clean(struct bytes text)
{
    for (size_t i = 0; i < text.count; i++) {
        const bool cr = text.at[i] == '\r', lf = text.at[i] == '\n';
        if (text.at[i] == 0 || (lf && (i == 0 || text.at[i - 1] != '\r')) ||
            (cr && (i + 1 == text.count || text.at[i + 1] != '\n')))
            return false;
    }
    return true;
}

static unsigned count_replies(struct bytes said, const char *start)
{
    unsigned count = 0;

    while (said.count > 0) {
        struct bytes line = BYTES_EMPTY;
        said = bytes_cut(said, '\n', &line);
        INVARIANT(line.count > 4 && line.at[0] >= '2' && line.at[0] <= '5' &&
                  line.at[line.count - 1] == '\r' && (line.at[3] == ' ' || line.at[3] == '-'));
        count += bytes_starts_with(line, bytes_of_text(start)) ? 1 : 0;
    }
    return count;
}

static int fuzz_main(void *unused)
{
    struct session_seen whole = play(fuzz_input, 0), pieces = play(fuzz_input, 1),
                        some = play(fuzz_input, 7);

    (void)unused;
    INVARIANT(bytes_starts_with(buffer_view(&pieces.said), buffer_view(&whole.said)));
    INVARIANT(bytes_starts_with(buffer_view(&pieces.said), buffer_view(&some.said)));
    INVARIANT(bytes_starts_with(buffer_view(&pieces.stored), buffer_view(&whole.stored)));
    INVARIANT(bytes_starts_with(buffer_view(&pieces.stored), buffer_view(&some.stored)));
    INVARIANT(is_clean(buffer_view(&whole.stored)) && is_clean(buffer_view(&whole.said)));
    /* By LMTP each recipient gets a reply of its own. */
    const unsigned accepted = count_replies(buffer_view(&whole.said), "250 2.0.0 Accepted as ");
    const unsigned most = FUZZ_LISTEN_KIND == LISTEN_LMTP ? house_config.limits.recipients : 1;
    INVARIANT(accepted >= whole.stored_count && accepted <= whole.stored_count * most);
    for (struct session_seen *seen = &whole; seen; seen = seen == &whole    ? &pieces
                                                          : seen == &pieces ? &some
                                                                            : NULL) {
        buffer_free(&seen->said);
        buffer_free(&seen->stored);
    }
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct ip_network everybody = {.base.family = ENDPOINT_IPV4};

    observe_configure(LOG_NONE, LOG_ERROR);
    house_config.limits.errors = 1000;
    house_listen.kind = FUZZ_LISTEN_KIND;
    house_listen.proxy = FUZZ_VOUCHED;
    house_config.proxies = house_config.xclients = &everybody;
    house_config.proxy_count = house_config.xclient_count = FUZZ_VOUCHED;
    fuzz_input = bytes_of(data, MIN_OF(size, (size_t)8192));
    INVARIANT(world_run(fuzz_main, NULL, 1) == 0);
    return 0;
}
