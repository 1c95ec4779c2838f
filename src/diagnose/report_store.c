/*
 * Drafts on the disk: one file a site, so that no site gets more than one report a day. Written
 * whole and renamed, by the server at 24 h and by the command.
 */
#include "diagnose/report.h"

#include <string.h>
#include <sys/stat.h>

enum { DRAFT_BYTES_MAX = 1 << 20 };
#define DRAFT_LIFE_US ((int64_t)24 * 3600 * 1000000)

void report_path(const char *spool, const char *site, char *into, size_t room)
{
    char name[200];
    size_t count = 0;

    for (; site[count] && count < sizeof name - 1; count++)
        name[count] = ascii_is_alnum((uint8_t)site[count]) || strchr("-_", site[count]) ||
                              (site[count] == '.' && count > 0)
                          ? (char)ascii_lower((uint8_t)site[count])
                          : '_';
    name[count] = 0;
    snprintf(into, room, "%s/reports/%s.txt", spool, name);
}

bool report_drafted(const char *spool, const char *site, int64_t *wall_us)
{
    char path[4400];
    struct stat facts;

    report_path(spool, site, path, sizeof path);
    if (stat(path, &facts) != 0 || !S_ISREG(facts.st_mode))
        return false;
    *wall_us = (int64_t)facts.st_mtim.tv_sec * 1000000 + facts.st_mtim.tv_nsec / 1000;
    return true;
}

bool diagnose_report_read(const char *spool, const char *site, int64_t now_wall_us,
                          struct buffer *text)
{
    CLEANUP(file_close_ptr) struct file *file = NULL;
    char path[4400];
    struct file_facts facts = {0};

    report_path(spool, site, path, sizeof path);
    if (file_open(path, FILE_READ, &file).status != IO_OK ||
        file_facts(file, &facts).status != IO_OK ||
        now_wall_us - facts.modified_wall_us >= DRAFT_LIFE_US || facts.size_bytes > DRAFT_BYTES_MAX)
        return false;
    uint8_t *memory = buffer_reserve(text, (size_t)facts.size_bytes);
    if (!memory)
        return false;
    const struct io_result got =
        file_read_at(file, (struct span){memory, (size_t)facts.size_bytes}, 0);
    if (got.status != IO_OK || got.count != facts.size_bytes)
        return false;
    buffer_claim(text, got.count);
    return text->count > 0;
}

bool diagnose_report_write(const char *spool, const char *site, struct bytes text, char *why,
                           size_t why_room)
{
    struct file *file = NULL;
    char folder[4200], path[4400], fresh[4410];

    snprintf(folder, sizeof folder, "%s/reports", spool);
    report_path(spool, site, path, sizeof path);
    snprintf(fresh, sizeof fresh, "%s.new", path);
    struct io_result done = disk_make_directory(folder);
    if (done.status == IO_OK)
        done = file_open(fresh, FILE_WRITE | FILE_CREATE, &file);
    if (done.status == IO_OK)
        done = file_truncate(file, 0);
    if (done.status == IO_OK)
        done = file_write_at(file, &text, 1, 0);
    if (done.status == IO_OK)
        done = file_sync(file);
    file_close_ptr(&file);
    if (done.status == IO_OK)
        done = disk_rename(fresh, path);
    if (done.status != IO_OK)
        snprintf(why, why_room, "%s: %s", path, io_result_text(done));
    return done.status == IO_OK;
}
