/* A mailbox's path from a template and a stranger's address: each placeholder is one piece of the
 * path and never leads out of it. */
#include "deliver/maildir.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned count_pieces(struct bytes path)
{
    unsigned count = 1;

    for (size_t i = 0; i < path.count; i++)
        count += path.at[i] == '/';
    return count;
}

static void no_piece_leads_up(struct bytes path)
{
    while (path.count > 0) {
        struct bytes piece = BYTES_EMPTY;
        path = bytes_cut(path, '/', &piece);
        INVARIANT(!bytes_equal_text(piece, "..") && !bytes_equal_text(piece, "."));
        INVARIANT(bytes_find_byte(piece, 0) == piece.count);
    }
}

/* Lines: local part, domain, tag. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct bytes templates[] = {BYTES_LITERAL("/m/{domain}/{user}"),
                                             BYTES_LITERAL("/m/{user}/x.{tag}"),
                                             BYTES_LITERAL("/m/a-{user}{domain}/Maildir")};
    struct bytes rest = bytes_of(data, MIN_OF(size, (size_t)2048));
    struct maildir maildir = {.name = ""};

    rest = bytes_cut(rest, '\n', &maildir.user.address.local);
    maildir.user.tag = bytes_cut(rest, '\n', &maildir.user.address.domain);
    for (size_t i = 0; i < COUNT_OF(templates); i++) {
        CLEANUP(buffer_free) struct buffer path = BUFFER_WITH_LIMIT(MAILDIR_PATH_MAX - 1);
        maildir.template = templates[i];
        if (!maildir_fill_in(&maildir, &path))
            continue;
        INVARIANT(bytes_starts_with(buffer_view(&path), BYTES_LITERAL("/m/")));
        INVARIANT(count_pieces(buffer_view(&path)) == count_pieces(templates[i]));
        no_piece_leads_up(buffer_view(&path));
    }
    return 0;
}
