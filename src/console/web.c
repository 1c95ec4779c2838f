/*
 * HTTP: /metrics, /health and one plain page. libmicrohttpd runs a thread of its own; what it shows
 * of the server's state it asks over the control socket, so that no lock is shared with the mail
 * path and /health proves that the loop still turns.
 */
#include "console/console_private.h"

#include <microhttpd.h>
#include <netinet/in.h>
#include <string.h>

enum { WEB_CONNECTIONS = 64, WEB_TIMEOUT_S = 30 };

static enum MHD_Result web_send(struct MHD_Connection *connection, unsigned status,
                                const char *type, struct bytes body)
{
    struct MHD_Response *response = MHD_create_response_from_buffer(
        body.count, (void *)(uintptr_t)body.at, MHD_RESPMEM_MUST_COPY);

    if (!response)
        return MHD_NO;
    MHD_add_response_header(response, "Content-Type", type);
    MHD_add_response_header(response, "X-Content-Type-Options", "nosniff");
    MHD_add_response_header(response, "Content-Security-Policy",
                            "default-src 'none'; style-src 'unsafe-inline'");
    const enum MHD_Result queued = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    return queued;
}

/* The answer of the server's own loop to a request, or NULL when it gives none. */
static json_t *web_ask(const struct console *console, const char *request)
{
    CLEANUP(buffer_free) struct buffer answer = {0};
    char why[256];
    json_error_t fault;

    if (!console_ask(console->directory, bytes_of_text(request), &answer, why, sizeof why))
        return NULL;
    return json_loadb((const char *)answer.at, answer.count, 0, &fault);
}

static enum MHD_Result web_metrics(const struct console *console, struct MHD_Connection *connection)
{
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(CONSOLE_ANSWER_MAX);

    (void)console;
    metrics_print(&text);
    return web_send(connection, text.failed ? MHD_HTTP_INTERNAL_SERVER_ERROR : MHD_HTTP_OK,
                    "text/plain; version=0.0.4; charset=utf-8", buffer_view(&text));
}

static enum MHD_Result web_health(const struct console *console, struct MHD_Connection *connection)
{
    json_t *health = web_ask(console, "{\"do\":\"health\"}");
    const bool healthy = json_is_true(json_object_get(health, "healthy"));
    char *text = health ? json_dumps(health, JSON_INDENT(2)) : NULL;
    const enum MHD_Result sent = web_send(
        connection, healthy ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE, "application/json",
        bytes_of_text(text ? text
                           : "{\"healthy\":false,\"reasons\":[{\"cause\":\"server.busy\"}]}"));

    free(text);
    json_decref(health);
    return sent;
}

static enum MHD_Result web_page(const struct console *console, struct MHD_Connection *connection)
{
    CLEANUP(buffer_free) struct buffer text = BUFFER_WITH_LIMIT(CONSOLE_ANSWER_MAX);
    json_t *status = web_ask(console, "{\"do\":\"status\"}");

    if (status)
        console_page_print(&text, (struct console *)(uintptr_t)console, status);
    else
        buffer_add_text(&text, "The server does not answer.");
    json_decref(status);
    return web_send(connection, status ? MHD_HTTP_OK : MHD_HTTP_SERVICE_UNAVAILABLE,
                    "text/html; charset=utf-8", buffer_view(&text));
}

static const struct {
    const char *path;
    enum MHD_Result (*serve)(const struct console *console, struct MHD_Connection *connection);
} PAGES[] = {{"/", web_page}, {"/metrics", web_metrics}, {"/health", web_health}};

static enum MHD_Result web_request(void *argument, struct MHD_Connection *connection,
                                   const char *url, const char *method, const char *version,
                                   const char *data, size_t *data_bytes, void **state)
{
    (void)version;
    (void)data;
    (void)data_bytes;
    (void)state;
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
        return web_send(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "text/plain",
                        BYTES_LITERAL("GET only\n"));
    for (size_t i = 0; i < COUNT_OF(PAGES); i++)
        if (strcmp(url, PAGES[i].path) == 0)
            return PAGES[i].serve(argument, connection);
    return web_send(connection, MHD_HTTP_NOT_FOUND, "text/plain", BYTES_LITERAL("no such page\n"));
}

bool console_web_open(struct console *console, char *why, size_t why_room)
{
    const struct endpoint *at = &console->settings.config->web;
    struct sockaddr_in ipv4 = {.sin_family = AF_INET, .sin_port = htons(at->port)};
    struct sockaddr_in6 ipv6 = {.sin6_family = AF_INET6, .sin6_port = htons(at->port)};
    unsigned flags = MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_EPOLL;
    char text[ENDPOINT_TEXT_MAX];

    if (at->family == ENDPOINT_NONE)
        return true;
    memcpy(&ipv4.sin_addr, at->ip.octets, sizeof ipv4.sin_addr);
    memcpy(&ipv6.sin6_addr, at->ip.octets, sizeof ipv6.sin6_addr);
    if (at->family == ENDPOINT_IPV6)
        flags |= MHD_USE_IPv6;
    const int parents = listener_adopted(at);
    const struct MHD_OptionItem given[] = {{MHD_OPTION_LISTEN_SOCKET, parents, NULL},
                                           {MHD_OPTION_END, 0, NULL}};
    const struct MHD_OptionItem none[] = {{MHD_OPTION_END, 0, NULL}};
    console->web = MHD_start_daemon(
        flags, at->port, NULL, NULL, web_request, console, MHD_OPTION_SOCK_ADDR,
        at->family == ENDPOINT_IPV6 ? (struct sockaddr *)&ipv6 : (struct sockaddr *)&ipv4,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)WEB_CONNECTIONS, MHD_OPTION_CONNECTION_TIMEOUT,
        (unsigned)WEB_TIMEOUT_S, MHD_OPTION_ARRAY, parents >= 0 ? given : none, MHD_OPTION_END);
    if (!console->web)
        snprintf(why, why_room, "web: cannot listen on %s", endpoint_print(at, text, sizeof text));
    return console->web != NULL;
}

static void web_stop(void *argument)
{
    MHD_stop_daemon(argument);
}

/* On a thread of the pool: the daemon's thread may be waiting for an answer of this very loop. */
void console_web_close(struct console *console)
{
    if (console->web && work_run(web_stop, console->web) != IO_OK)
        observe_note(LOG_WARNING, "console", "the web daemon did not stop in order");
    console->web = NULL;
}
