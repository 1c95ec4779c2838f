/*
 * Which macros go with which step: those the milter asked for in the negotiation, or else the usual
 * ones. Only macros that have a value are sent.
 */
#include "wire/milter.h"

enum { MACROS_MAX = 64 };

static const char *const usual[MILTER_STAGES] = {
    [MILTER_AT_CONNECT] = "j _ {daemon_name} {if_name} {if_addr} {daemon_addr} v",
    [MILTER_AT_HELO] = "{tls_version} {cipher} {cipher_bits} {cert_subject} {cert_issuer}",
    [MILTER_AT_MAIL] = ("i {auth_type} {auth_authen} {auth_author} {mail_host} {mail_addr} "
                        "{mail_mailer}"), /* in brackets, or clang takes it for a lost comma */
    [MILTER_AT_RCPT] = "i {rcpt_host} {rcpt_addr} {rcpt_mailer}",
    [MILTER_AT_DATA] = "i",
    [MILTER_AT_END] = "i {msg_id}",
    [MILTER_AT_EOH] = "i",
};

/* A milter may leave out the braces of a long name. */
static bool macro_is(const struct milter_macro *macro, struct bytes name)
{
    const struct bytes known = bytes_of_text(macro->name);
    const bool braced = known.count > 2 && known.at[0] == '{';

    return bytes_equal(known, name) ||
           (braced && bytes_equal(bytes_slice(known, 1, known.count - 2), name));
}

static const struct milter_macro *macro_find(const struct milter_call *call, struct bytes name)
{
    for (unsigned i = 0; i < call->macro_count; i++)
        if (macro_is(&call->macros[i], name))
            return call->macros[i].value.count > 0 ? &call->macros[i] : NULL;
    return NULL;
}

static bool is_between(uint8_t byte)
{
    return byte == ' ' || byte == '\t' || byte == ',';
}

static struct bytes next_name(struct bytes list, struct bytes *name)
{
    size_t start = 0, end;

    while (start < list.count && is_between(list.at[start]))
        start++;
    for (end = start; end < list.count && !is_between(list.at[end]);)
        end++;
    *name = bytes_slice(list, start, end - start);
    return bytes_skip(list, end);
}

void milter_put_macros(struct milter *milter, const struct milter_call *call,
                       enum milter_stage stage, uint8_t command)
{
    struct bytes list, name;
    struct buffer texts = BUFFER_WITH_LIMIT(64 * KIB);

    if (stage == MILTER_AT_NONE)
        return;
    list = milter->chose_macros[stage] ? milter->macros[stage] : bytes_of_text(usual[stage]);
    buffer_add_byte(&texts, command);
    for (unsigned count = 0; list.count > 0 && count < MACROS_MAX; count++) {
        list = next_name(list, &name);
        const struct milter_macro *macro = macro_find(call, name);
        if (!macro || bytes_find_byte(macro->value, 0) < macro->value.count)
            continue;
        buffer_add_text(&texts, macro->name);
        buffer_add_byte(&texts, 0);
        buffer_add(&texts, macro->value);
        buffer_add_byte(&texts, 0);
    }
    if (!texts.failed && texts.count > 1)
        milter_put(milter, 'D', buffer_view(&texts));
    buffer_free(&texts);
}
