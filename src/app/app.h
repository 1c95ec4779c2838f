/*
 * app: main(), wiring, the command line. What its files share.
 */
#ifndef APP_APP_H
#define APP_APP_H

#include "base/base.h"
#include "config/config.h"

/* Exit codes of every command. */
enum { EXIT_FINE = 0, EXIT_FINDINGS = 1, EXIT_USAGE = 2, EXIT_UNREACHABLE = 75 };

/* What was typed behind the command's name. */
#define COMMAND_WORDS_MAX 64 /* a reply may be typed without quotes */
struct word_list {           /* of an option that may be given several times */
    const char *words[COMMAND_WORDS_MAX];
    unsigned count;
};
struct command_line {
    const char *config_file; /* -c; NULL: found by config_open */
    const char *dest, *cause, *by, *since, *sender, *via;
    const char *mail, *stage; /* explain */
    const char *client;       /* trace in */
    const char *ip, *helo, *from, *domain, *selector, *key;
    const char *resolvers[COMMAND_WORDS_MAX]; /* --resolver, as often as wanted */
    unsigned resolver_count;
    struct word_list ips, selectors, servers; /* all of --ip, --selector, --server */
    const char *port, *https_port, *authorities;
    bool connect, ask_public;
    bool send; /* tlsrpt */
    bool json, all, in, arc, one_process, transcript, fresh, manual;
    const char *words[COMMAND_WORDS_MAX]; /* what is no option */
    unsigned word_count;
};

/* Loads the named file, or $HOLDFAST_CONFIG, or /etc/holdfast/holdfast.conf, or the embedded
 * default, whose state lies beside the binary. Prints what is wrong on standard error and returns
 * NULL. */
MUST_USE struct config *app_config_open(const char *file);
/* The same with the complaints in `errors`. */
MUST_USE struct config *app_config_read(const char *file, struct config_errors *errors);
/* Which file that is; NULL: the embedded default. */
const char *app_config_file(const char *named);
/* For commands that look at a server or act on it: where the file is broken, its complaints are
 * printed and the configuration is that of the server that runs, if one does. */
MUST_USE struct config *app_config_running(const char *file);
/* Makes what the embedded default needs: folders, a users file. */
MUST_USE bool app_prepare_default(const struct config *config);
bool app_config_is_default(const struct config *config);

int64_t app_now_wall_us(void);
/* A running server writes its history in the background: lets it catch up. */
void app_catch_up(const struct config *config);

/* One function a command; they return an exit code. */
#define COMMAND(word, function, usage, help) int function(const struct command_line *line);
#include "app/commands.def"
#undef COMMAND

/* Called by the name of sendmail, mailq or newaliases (docs/sendmail.md); exit codes of sysexits.h.
 */
bool sendmail_is_called(const char *program);
int sendmail_main(int count, char **words);

/* Prints a JSON document and frees it, or text; false when standard output failed. */
struct json_t;
int app_print_buffer(struct buffer *text);
/* Words of others are in what the commands print: what would act on a terminal, or is not seen in
 * it, is written as \u and four digits, which in JSON is the same text. */
void app_write_safe(struct bytes text);
void app_print(const char *format, ...) PRINTF_LIKE(1, 2);
int app_print_json(struct json_t *document);

#endif
