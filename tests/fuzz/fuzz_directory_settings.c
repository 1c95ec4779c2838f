/* Settings of LDAP and PostgreSQL sources, and a filter with a hostile address put in: what went in
 * cannot end its assertion. */
#include <string.h>

#include "directory/remote.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_filter(struct bytes local)
{
    static const char domain[] = "home.example";
    struct remote_question question;
    struct buffer filter = BUFFER_WITH_LIMIT(64 * KIB);

    if (remote_question_fill(&question, (struct address){local, bytes_of_text(domain)})) {
        ldap_filter_fill(&filter, BYTES_LITERAL("(mail={address})"), &question);
        const struct bytes view = buffer_view(&filter);

        INVARIANT(!filter.failed && bytes_find_byte(view, ')') == view.count - 1);
        INVARIANT(bytes_find_byte(bytes_skip(view, 1), '(') == view.count - 1);
        INVARIANT(bytes_find_byte(view, '*') == view.count);
    }
    buffer_free(&filter);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = ARENA_WITH_LIMIT(MIB);
    struct ldap_location ldap;
    struct postgresql_location postgresql;
    const struct bytes text = bytes_of(data, size);

    if (!ldap_location_read(&arena, text, size % 2, &ldap))
        INVARIANT(ldap.base[0] && ldap.attribute && ldap.attribute_count > 0);
    if (!postgresql_location_read(&arena, text, size % 2, &postgresql))
        INVARIANT(postgresql.uses[0] || postgresql.uses[1]);
    check_filter(text);
    arena_clear(&arena);
    return 0;
}
