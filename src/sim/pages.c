/*
 * One file's bytes, twice: in the page cache, as readers see them, and on the platter, as a power
 * cut leaves them. Between the two stands the sync, which a fault or a cut may end in the middle.
 */
#include "sim/inside.h"

#include <string.h>

static struct sync_job *jobs; /* syncs under way, oldest first */

/* ------------------------------------------------------------------ pages */

static struct page *page_at(struct inode *inode, size_t index)
{
    if (index >= inode->page_count) {
        const size_t wanted = MAX_OF(index + 1, inode->page_count * 2);

        inode->pages = sim_grow(inode->pages, wanted, sizeof *inode->pages);
        memset(inode->pages + inode->page_count, 0,
               (wanted - inode->page_count) * sizeof *inode->pages);
        inode->page_count = wanted;
    }
    return &inode->pages[index];
}

static void page_allocate(struct page *page, bool allocated)
{
    if (page->allocated != allocated)
        names_usage_changed();
    page->allocated = allocated;
}

static bool page_is_clean(const struct page *page)
{
    return page->dirty == 0 && page->stale == 0;
}

static void page_settle(struct page *page)
{
    page->dirty = page->stale = 0;
    free(page->platter);
    page->platter = NULL;
}

static uint8_t *page_copy(const uint8_t *from)
{
    uint8_t *copy = NULL;

    if (from) {
        copy = sim_new(PAGE_BYTES);
        memcpy(copy, from, PAGE_BYTES);
    }
    return copy;
}

/* Before the cache changes: what was the same on the platter is kept there. */
static void page_part(struct page *page)
{
    if (page_is_clean(page))
        page->platter = page_copy(page->cache);
}

static uint8_t sectors_of(size_t from, size_t count)
{
    const unsigned first = (unsigned)(from / SECTOR_BYTES);
    const unsigned last = (unsigned)((from + count - 1) / SECTOR_BYTES);

    return (uint8_t)(((1U << (last + 1)) - 1) & ~((1U << first) - 1));
}

static void page_write(struct page *page, size_t from, struct bytes bytes)
{
    const uint8_t mask = sectors_of(from, bytes.count);

    page_part(page);
    if (!page->cache)
        page->cache = sim_new(PAGE_BYTES);
    memcpy(page->cache + from, bytes.at, bytes.count);
    page_allocate(page, true);
    page->dirty |= mask;
    page->stale &= (uint8_t)~mask;
}

static void page_zero(struct page *page, size_t from, size_t count)
{
    const uint8_t mask = sectors_of(from, count);

    page_part(page);
    if (page->cache && count == PAGE_BYTES) {
        free(page->cache);
        page->cache = NULL;
    } else if (page->cache) {
        memset(page->cache + from, 0, count);
    }
    page_allocate(page, true);
    page->dirty |= mask;
    page->stale &= (uint8_t)~mask;
}

static void sector_copy(uint8_t **to, const uint8_t *from, unsigned sector)
{
    if (!*to && !from)
        return;
    if (!*to)
        *to = sim_new(PAGE_BYTES);
    if (from)
        memcpy(*to + sector * SECTOR_BYTES, from + sector * SECTOR_BYTES, SECTOR_BYTES);
    else
        memset(*to + sector * SECTOR_BYTES, 0, SECTOR_BYTES);
}

/* ------------------------------------------------------------------ reading and writing */

void pages_write(struct inode *inode, uint64_t offset, struct bytes bytes)
{
    inode->modified_wall_us = clock_wall_us();
    while (bytes.count > 0) {
        const size_t from = (size_t)(offset % PAGE_BYTES);
        const size_t part = MIN_OF(bytes.count, PAGE_BYTES - from);

        page_write(page_at(inode, (size_t)(offset / PAGE_BYTES)), from,
                   bytes_slice(bytes, 0, part));
        bytes = bytes_skip(bytes, part);
        offset += part;
        inode->size = MAX_OF(inode->size, offset);
    }
}

void pages_zero(struct inode *inode, uint64_t from, uint64_t to)
{
    while (from < to) {
        const size_t within = (size_t)(from % PAGE_BYTES);
        const size_t part = (size_t)MIN_OF(to - from, (uint64_t)(PAGE_BYTES - within));

        page_zero(page_at(inode, (size_t)(from / PAGE_BYTES)), within, part);
        from += part;
    }
    inode->size = MAX_OF(inode->size, to);
}

size_t pages_read(const struct inode *inode, uint64_t offset, struct span into)
{
    size_t done = 0;

    while (done < into.count && offset < inode->size) {
        const size_t index = (size_t)(offset / PAGE_BYTES);
        const size_t from = (size_t)(offset % PAGE_BYTES);
        const size_t part = (size_t)MIN_OF((uint64_t)MIN_OF(into.count - done, PAGE_BYTES - from),
                                           inode->size - offset);
        const uint8_t *cache = index < inode->page_count ? inode->pages[index].cache : NULL;

        if (cache)
            memcpy(into.at + done, cache + from, part);
        else
            memset(into.at + done, 0, part);
        done += part;
        offset += part;
    }
    return done;
}

/* What is cut off reads as zeroes from now on; the platter learns of it by the next sync. */
void pages_truncate(struct inode *inode, uint64_t size)
{
    const uint64_t end = inode->size;

    inode->modified_wall_us = clock_wall_us();
    if (size < end)
        pages_zero(inode, size, end);
    inode->size = size;
    for (size_t i = (size_t)((size + PAGE_BYTES - 1) / PAGE_BYTES); i < inode->page_count; i++)
        page_allocate(&inode->pages[i], false);
}

void pages_free(struct inode *inode)
{
    for (size_t i = 0; i < inode->page_count; i++) {
        free(inode->pages[i].cache);
        free(inode->pages[i].platter);
    }
    free(inode->pages);
    inode->pages = NULL;
    inode->page_count = 0;
}

uint64_t pages_allocated(const struct inode *inode)
{
    uint64_t count = 0;

    for (size_t i = 0; i < inode->page_count; i++)
        count += inode->pages[i].allocated;
    return count * PAGE_BYTES;
}

uint64_t pages_missing(const struct inode *inode, uint64_t offset, uint64_t count)
{
    uint64_t missing = 0;

    for (uint64_t i = offset / PAGE_BYTES; count > 0 && i <= (offset + count - 1) / PAGE_BYTES; i++)
        missing += i >= inode->page_count || !inode->pages[i].allocated;
    return missing * PAGE_BYTES;
}

void pages_flip(struct inode *inode, uint64_t offset, unsigned bit)
{
    struct page *page = page_at(inode, (size_t)(offset / PAGE_BYTES));
    const uint8_t mask = (uint8_t)(1U << (bit % 8));

    if (!page->cache)
        page->cache = sim_new(PAGE_BYTES);
    page->cache[offset % PAGE_BYTES] ^= mask;
    if (page_is_clean(page))
        return;
    if (!page->platter)
        page->platter = sim_new(PAGE_BYTES);
    page->platter[offset % PAGE_BYTES] ^= mask;
}

/* ------------------------------------------------------------------ sync */

/* What was dirty now belongs to the job; a write that comes meanwhile waits for the next sync. */
struct sync_job *sync_begin(struct inode *inode)
{
    struct sync_job *job = sim_new(sizeof *job);
    struct sync_job **last = &jobs;
    size_t dirty = 0;

    for (size_t i = 0; i < inode->page_count; i++)
        dirty += inode->pages[i].dirty != 0;
    *job = (struct sync_job){.inode = inode, .size = inode->size};
    job->pages = sim_new(MAX_OF(dirty, (size_t)1) * sizeof *job->pages);
    for (size_t i = 0; i < inode->page_count && job->count < dirty; i++) {
        struct page *page = &inode->pages[i];

        if (page->dirty == 0)
            continue;
        struct synced_page *synced = &job->pages[job->count++];
        synced->index = i;
        synced->mask = page->dirty;
        if (page->cache)
            memcpy(synced->bytes, page->cache, PAGE_BYTES);
        page->stale |= page->dirty;
        page->dirty = 0;
    }
    while (*last)
        last = &(*last)->next;
    *last = job;
    return job;
}

bool sync_running(const struct inode *inode)
{
    for (const struct sync_job *job = jobs; job; job = job->next)
        if (job->inode == inode)
            return true;
    return false;
}

static void job_free(struct sync_job *job)
{
    struct sync_job **link = &jobs;

    while (*link != job)
        link = &(*link)->next;
    *link = job->next;
    free(job->pages);
    free(job);
}

/* Puts the sectors of the mask on the platter. */
static void synced_apply(struct inode *inode, const struct synced_page *synced, uint8_t mask)
{
    struct page *page = page_at(inode, synced->index);

    for (unsigned sector = 0; sector < PAGE_SECTORS; sector++)
        if (mask & (1U << sector))
            sector_copy(&page->platter, synced->bytes, sector);
    page->stale &= (uint8_t)~mask;
    if (page_is_clean(page))
        page_settle(page);
}

static uint8_t draw_sectors(uint8_t mask, unsigned survive_ppm)
{
    uint8_t drawn = 0;

    for (unsigned sector = 0; sector < PAGE_SECTORS; sector++)
        if ((mask & (1U << sector)) && sim_chance(survive_ppm))
            drawn |= (uint8_t)(1U << sector);
    return drawn;
}

/* From nothing to everything; the ends are drawn often, since they are what usually happens. */
static unsigned draw_share(void)
{
    switch (sim_below(4)) {
    case 0:
        return 0;
    case 1:
        return 1000000;
    case 2:
        return 500000;
    }
    return (unsigned)sim_below(1000000);
}

/* The kernel writes pages back when it likes: an older version of a sector may be what survives. */
void pages_write_back(struct inode *inode)
{
    if (inode->page_count == 0 || sync_running(inode))
        return;
    struct page *page = &inode->pages[sim_below(inode->page_count)];
    const uint8_t mask = draw_sectors(page->dirty, draw_share());

    for (unsigned sector = 0; sector < PAGE_SECTORS; sector++)
        if (mask & (1U << sector))
            sector_copy(&page->platter, page->cache, sector);
    page->dirty &= (uint8_t)~mask;
    if (page_is_clean(page))
        page_settle(page);
}

static void evict_stale(struct inode *inode)
{
    for (size_t i = 0; i < inode->page_count; i++) {
        struct page *page = &inode->pages[i];

        for (unsigned sector = 0; sector < PAGE_SECTORS; sector++)
            if (page->stale & (1U << sector))
                sector_copy(&page->cache, page->platter, sector);
        page->stale = 0;
        if (page_is_clean(page))
            page_settle(page);
    }
}

/* After a failed sync the pages are clean to the kernel: part was written, the rest is lost, and
 * the cache shows it either still or no longer. */
void sync_end(struct sync_job *job, enum sync_end end)
{
    struct inode *inode = job->inode;
    const unsigned share = end == SYNC_DONE ? 1000000 : end == SYNC_LIED ? 0 : draw_share();

    for (size_t i = 0; i < job->count; i++)
        synced_apply(inode, &job->pages[i],
                     end == SYNC_DONE ? job->pages[i].mask
                                      : draw_sectors(job->pages[i].mask, share));
    if (end == SYNC_DONE)
        inode->durable_size = job->size;
    else if (end == SYNC_FAILED && sim_chance(500000))
        evict_stale(inode);
    job_free(job);
}

void sync_finish(void)
{
    while (jobs)
        sync_end(jobs, SYNC_DONE);
}

void sync_power_cut(void)
{
    while (jobs) {
        const unsigned share = draw_share();

        for (size_t i = 0; i < jobs->count; i++)
            synced_apply(jobs->inode, &jobs->pages[i], draw_sectors(jobs->pages[i].mask, share));
        if (sim_below(1000000) < share)
            jobs->inode->durable_size = jobs->size;
        job_free(jobs);
    }
}

void sync_forget(void)
{
    while (jobs)
        job_free(jobs);
}

/* ------------------------------------------------------------------ what a power cut leaves */

static uint64_t draw_size(const struct inode *inode)
{
    const uint64_t least = MIN_OF(inode->size, inode->durable_size);
    const uint64_t most = MAX_OF(inode->size, inode->durable_size);

    switch (sim_below(3)) {
    case 0:
        return inode->durable_size;
    case 1:
        return inode->size;
    }
    const uint64_t between = chance_between(least, most) / SECTOR_BYTES * SECTOR_BYTES;
    return MIN_OF(MAX_OF(between, least), most);
}

static void page_power_cut(struct page *page, unsigned share)
{
    const uint8_t written = draw_sectors(page->dirty, share);
    const uint8_t lost = (uint8_t)((page->dirty | page->stale) & ~written);

    for (unsigned sector = 0; sector < PAGE_SECTORS; sector++)
        if (lost & (1U << sector))
            sector_copy(&page->cache, page->platter, sector);
    page_settle(page);
}

void pages_power_cut(struct inode *inode)
{
    const unsigned share = draw_share();
    const uint64_t size = draw_size(inode);

    for (size_t i = 0; i < inode->page_count; i++)
        if (!page_is_clean(&inode->pages[i]))
            page_power_cut(&inode->pages[i], share);
    inode->size = MAX_OF(inode->size, inode->durable_size);
    pages_truncate(inode, size);
    pages_settle(inode);
}

void pages_settle(struct inode *inode)
{
    for (size_t i = 0; i < inode->page_count; i++)
        page_settle(&inode->pages[i]);
    inode->durable_size = inode->size;
}
