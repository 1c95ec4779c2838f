/*
 * The macros that milters may ask for (sendmail's names, and those that Postfix added): facts of
 * the connection, the sender, the recipient at hand and the message.
 */
#include "policy/filter.h"

struct macros {
    struct milter_macro *rows;
    unsigned count;
    struct arena *arena;
};

static void put(struct macros *macros, const char *name, struct bytes value)
{
    INVARIANT(macros->count < MILTER_MACROS_MAX);
    if (value.count > 0)
        macros->rows[macros->count++] = (struct milter_macro){name, value};
}

static struct bytes ip_text(struct arena *arena, const struct endpoint *endpoint)
{
    char text[ENDPOINT_TEXT_MAX];

    if (endpoint->family != ENDPOINT_IPV4 && endpoint->family != ENDPOINT_IPV6)
        return BYTES_EMPTY;
    return arena_print(arena, "%s", ip_print(&endpoint->ip, text, sizeof text));
}

static struct bytes port_text(struct arena *arena, const struct endpoint *endpoint)
{
    return endpoint->port ? arena_print(arena, "%u", endpoint->port) : BYTES_EMPTY;
}

static const char *daemon_name(enum listen_kind kind)
{
    switch (kind) {
    case LISTEN_SMTP:
        return "smtp";
    case LISTEN_SUBMISSION:
        return "submission";
    case LISTEN_LMTP:
        return "lmtp";
    }
    return "smtp";
}

static void put_client(struct macros *macros, const struct client_facts *client)
{
    const struct bytes address = ip_text(macros->arena, &client->remote);
    const struct bytes name =
        client->reverse_name.count > 0 ? client->reverse_name : BYTES_LITERAL("unknown");

    put(macros, "_",
        client->reverse_name.count > 0
            ? arena_print(macros->arena, "%.*s [%.*s]", BYTES_PRINT(name), BYTES_PRINT(address))
            : arena_print(macros->arena, "[%.*s]", BYTES_PRINT(address)));
    put(macros, "{client_addr}", address);
    put(macros, "{client_name}", name);
    put(macros, "{client_ptr}", name);
    put(macros, "{client_port}", port_text(macros->arena, &client->remote));
    put(macros, "{daemon_name}", bytes_of_text(daemon_name(client->kind)));
    put(macros, "{daemon_addr}", ip_text(macros->arena, &client->local));
    put(macros, "{daemon_port}", port_text(macros->arena, &client->local));
    put(macros, "{if_addr}", ip_text(macros->arena, &client->local));
}

/* "TLSv1.3 cipher X" */
static void put_tls(struct macros *macros, const struct client_facts *client)
{
    static const struct bytes between = BYTES_LITERAL(" cipher ");
    const struct bytes tls = client->tls;
    const size_t at = bytes_find(tls, between);

    put(macros, "{tls_version}", bytes_slice(tls, 0, at));
    put(macros, "{cipher}", bytes_skip(tls, MIN_OF(tls.count, at + between.count)));
    if (client->tls_bits > 0)
        put(macros, "{cipher_bits}", arena_print(macros->arena, "%u", client->tls_bits));
}

static void put_envelope(struct macros *macros, const struct transaction *transaction,
                         const struct recipient *recipient)
{
    const struct address from = transaction->envelope.from;
    char id[ID_TEXT_MAX];

    if (transaction->message != 0)
        put(macros, "i",
            arena_print(macros->arena, "%s", id_print(transaction->message, id, sizeof id)));
    put(macros, "{mail_addr}", address_text(macros->arena, from));
    put(macros, "{mail_host}", from.domain);
    put(macros, "{mail_mailer}", BYTES_LITERAL("smtp"));
    if (!recipient)
        return;
    put(macros, "{rcpt_addr}", address_text(macros->arena, recipient->address));
    put(macros, "{rcpt_host}", recipient->address.domain);
    put(macros, "{rcpt_mailer}", BYTES_LITERAL("smtp"));
}

unsigned milter_macros(struct milter_macro *rows, const struct policy *policy,
                       const struct transaction *transaction, const struct recipient *recipient)
{
    struct macros macros = {.rows = rows, .arena = transaction->arena};
    const struct client_facts *client = transaction->client;
    const struct bytes hostname = bytes_of_text(policy->settings.config->hostname);

    put(&macros, "j", hostname);
    put(&macros, "{if_name}", hostname);
    put(&macros, "v", BYTES_LITERAL("Holdfast"));
    put_client(&macros, client);
    put_tls(&macros, client);
    put(&macros, "{auth_authen}", client->user);
    if (client->user.count > 0)
        put(&macros, "{auth_type}",
            client->mechanism.count > 0 ? client->mechanism : BYTES_LITERAL("PLAIN"));
    put_envelope(&macros, transaction, recipient);
    return macros.count;
}
