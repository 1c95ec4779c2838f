/*
 * SQLite over the simulated disk: the same steps, faults and crashes as everybody's. Its calls
 * never switch fibers, since SQLite may hold locks of its own: the time they take is owed and
 * passes when the fiber next stops. Locks and the WAL's shared memory live here, in memory, as long
 * as the process does; both are gone after a crash, as after a kill or a reboot.
 */
#include "sim/inside.h"

#include <errno.h>
#include <sqlite3.h>
#include <string.h>

enum { SHM_LOCKS = SQLITE_SHM_NLOCK, SHM_REGIONS_MOST = 1024 };
#define VFS_NAME "holdfast-sim"

/* What all connections to one database share. */
struct vfs_shared {
    struct inode *inode;
    unsigned users, shared_locks;
    const void *reserved, *pending, *exclusive; /* the vfs_file that holds it */
    uint8_t *regions[SHM_REGIONS_MOST];
    size_t region_count;
    unsigned shm_users, shm_shared[SHM_LOCKS];
    bool shm_exclusive[SHM_LOCKS];
    struct vfs_shared *next;
};

struct vfs_file {
    sqlite3_file base; /* first, as SQLite wants it */
    struct file *file;
    struct vfs_shared *shared;
    int level;
    bool remove_on_close, sync_names, shm_open;
    uint16_t shm_shared, shm_exclusive; /* which of the locks this connection holds */
};

static struct vfs_shared *all_shared;

static int code_of(int error, int otherwise)
{
    return error == ENOSPC ? SQLITE_FULL : otherwise;
}

/* ------------------------------------------------------------------ what connections share */

static struct vfs_shared *shared_of(struct inode *inode)
{
    if (!inode->shared) {
        struct vfs_shared *shared = sim_new(sizeof *shared);

        shared->inode = inode;
        shared->next = all_shared;
        all_shared = inode->shared = shared;
    }
    inode->shared->users++;
    return inode->shared;
}

static void regions_free(struct vfs_shared *shared)
{
    for (size_t i = 0; i < shared->region_count; i++)
        free(shared->regions[i]);
    shared->region_count = 0;
}

static void shared_free(struct vfs_shared *shared)
{
    struct vfs_shared **link = &all_shared;

    while (*link != shared)
        link = &(*link)->next;
    *link = shared->next;
    shared->inode->shared = NULL;
    regions_free(shared);
    free(shared);
}

static void shared_leave(struct vfs_shared *shared)
{
    if (--shared->users == 0)
        shared_free(shared);
}

void vfs_close(void)
{
    while (all_shared)
        shared_free(all_shared);
}

/* ------------------------------------------------------------------ bytes */

static int vfs_read(sqlite3_file *base, void *into, int count, sqlite3_int64 offset)
{
    const struct file *file = ((struct vfs_file *)base)->file;

    if (sim_world.crashed)
        return SQLITE_IOERR_READ;
    const struct step step = step_take(SIM_DISK_READ, file->path, (uint64_t)count);
    if (!step_owe(&step) || !step_end_owed(&step) || step.error)
        return SQLITE_IOERR_READ;
    const size_t got =
        pages_read(file->inode, (uint64_t)offset, (struct span){into, (size_t)count});
    if (got == (size_t)count)
        return SQLITE_OK;
    memset((uint8_t *)into + got, 0, (size_t)count - got);
    return SQLITE_IOERR_SHORT_READ;
}

static int vfs_write(sqlite3_file *base, const void *from, int count, sqlite3_int64 offset)
{
    struct file *file = ((struct vfs_file *)base)->file;
    size_t done = 0;

    if (sim_world.crashed)
        return SQLITE_IOERR_WRITE;
    const struct step step = step_take(SIM_DISK_WRITE, file->path, (uint64_t)count);
    if (!step_owe(&step))
        return SQLITE_IOERR_WRITE;
    trace_bytes("sql write", (uint64_t)offset, bytes_of(from, (size_t)count));
    const int error =
        disk_write_now(file, &step, (uint64_t)offset, bytes_of(from, (size_t)count), &done);
    if (!step_end_owed(&step))
        return SQLITE_IOERR_WRITE;
    return error ? code_of(error, SQLITE_IOERR_WRITE) : SQLITE_OK;
}

static int vfs_truncate(sqlite3_file *base, sqlite3_int64 size)
{
    struct file *file = ((struct vfs_file *)base)->file;

    if (sim_world.crashed)
        return SQLITE_IOERR_TRUNCATE;
    const struct step step = step_take(SIM_DISK_WRITE, file->path, 0);
    if (!step_owe(&step))
        return SQLITE_IOERR_TRUNCATE;
    const int error = disk_truncate_now(file, &step, (uint64_t)size);
    return step_end_owed(&step) && !error ? SQLITE_OK : SQLITE_IOERR_TRUNCATE;
}

static int sync_names_of(const char *path)
{
    char parent[PATH_MAX_BYTES];
    const char *slash = strrchr(path, '/');
    const size_t length = slash ? (size_t)(slash - path) : 0;

    memcpy(parent, path, length);
    parent[length] = '\0';
    const struct step step = step_take(SIM_DISK_SYNC_NAMES, length ? parent : "/", 0);
    if (!step_owe(&step) || (step.strike == STRIKE_MIDDLE && !step_end_owed(&step)))
        return SQLITE_IOERR_DIR_FSYNC;
    const int error = disk_sync_names_now(length ? parent : "/", &step);
    return step_end_owed(&step) && !error ? SQLITE_OK : SQLITE_IOERR_DIR_FSYNC;
}

/* As SQLite's own: the first sync of a new journal or WAL makes its name durable too. */
static int vfs_sync(sqlite3_file *base, int flags)
{
    struct vfs_file *self = (struct vfs_file *)base;

    if (sim_world.crashed || flags == 0)
        return SQLITE_IOERR_FSYNC;
    const struct step step = step_take(SIM_DISK_SYNC, self->file->path, 0);
    struct sync_job *job = sync_begin(self->file->inode);
    if (step.strike == STRIKE_BEFORE || step.strike == STRIKE_MIDDLE)
        crash_now(sim_world.crash_kind); /* finds the job under way, and ends it */
    if (!step_owe(&step))
        return SQLITE_IOERR_FSYNC;
    sync_end(job, sync_end_of(&step));
    if (!step_end_owed(&step) || step.error)
        return SQLITE_IOERR_FSYNC;
    if (!self->sync_names)
        return SQLITE_OK;
    self->sync_names = false;
    return sync_names_of(self->file->path);
}

static int vfs_file_size(sqlite3_file *base, sqlite3_int64 *size)
{
    *size = (sqlite3_int64)((struct vfs_file *)base)->file->inode->size;
    return SQLITE_OK;
}

/* ------------------------------------------------------------------ locks of the rollback mode */

static bool held_by_other(const void *holder, const void *self)
{
    return holder && holder != self;
}

static int vfs_lock(sqlite3_file *base, int level)
{
    struct vfs_file *self = (struct vfs_file *)base;
    struct vfs_shared *shared = self->shared;

    if (level <= self->level)
        return SQLITE_OK;
    if (held_by_other(shared->exclusive, self) || held_by_other(shared->pending, self))
        return SQLITE_BUSY;
    if (self->level == SQLITE_LOCK_NONE)
        shared->shared_locks++;
    if (level >= SQLITE_LOCK_RESERVED && held_by_other(shared->reserved, self)) {
        if (self->level == SQLITE_LOCK_NONE)
            shared->shared_locks--;
        return SQLITE_BUSY;
    }
    if (level == SQLITE_LOCK_RESERVED)
        shared->reserved = self;
    if (level == SQLITE_LOCK_EXCLUSIVE) {
        shared->pending = self;
        if (shared->shared_locks > 1) {
            self->level = SQLITE_LOCK_PENDING;
            return SQLITE_BUSY;
        }
        shared->exclusive = self;
    }
    self->level = level;
    return SQLITE_OK;
}

static int vfs_unlock(sqlite3_file *base, int level)
{
    struct vfs_file *self = (struct vfs_file *)base;
    struct vfs_shared *shared = self->shared;

    if (level >= self->level)
        return SQLITE_OK;
    if (shared->exclusive == self)
        shared->exclusive = NULL;
    if (shared->pending == self)
        shared->pending = NULL;
    if (shared->reserved == self)
        shared->reserved = NULL;
    if (level == SQLITE_LOCK_NONE)
        shared->shared_locks--;
    self->level = level;
    return SQLITE_OK;
}

static int vfs_check_reserved(sqlite3_file *base, int *reserved)
{
    const struct vfs_shared *shared = ((struct vfs_file *)base)->shared;

    *reserved = shared->reserved || shared->pending || shared->exclusive;
    return SQLITE_OK;
}

/* ------------------------------------------------------------------ the WAL's shared memory */

static int shm_map(sqlite3_file *base, int region, int size, int extend, void volatile **memory)
{
    struct vfs_file *self = (struct vfs_file *)base;
    struct vfs_shared *shared = self->shared;

    *memory = NULL;
    if (!self->shm_open) {
        self->shm_open = true;
        shared->shm_users++;
    }
    if (region >= SHM_REGIONS_MOST)
        return SQLITE_NOMEM;
    while (extend && shared->region_count <= (size_t)region)
        shared->regions[shared->region_count++] = sim_new((size_t)size);
    if ((size_t)region < shared->region_count)
        *memory = shared->regions[region];
    return SQLITE_OK;
}

static int shm_unlock(struct vfs_file *self, unsigned first, unsigned count)
{
    for (unsigned i = first; i < first + count; i++) {
        const uint16_t bit = (uint16_t)(1U << i);

        if (self->shm_shared & bit)
            self->shared->shm_shared[i]--;
        if (self->shm_exclusive & bit)
            self->shared->shm_exclusive[i] = false;
        self->shm_shared &= (uint16_t)~bit;
        self->shm_exclusive &= (uint16_t)~bit;
    }
    return SQLITE_OK;
}

static int shm_lock_shared(struct vfs_file *self, unsigned index)
{
    const uint16_t bit = (uint16_t)(1U << index);

    if (self->shm_shared & bit)
        return SQLITE_OK;
    if (self->shared->shm_exclusive[index])
        return SQLITE_BUSY;
    self->shared->shm_shared[index]++;
    self->shm_shared |= bit;
    return SQLITE_OK;
}

static int shm_lock_exclusive(struct vfs_file *self, unsigned first, unsigned count)
{
    struct vfs_shared *shared = self->shared;

    for (unsigned i = first; i < first + count; i++) {
        const bool ours = (self->shm_exclusive & (1U << i)) != 0;

        if ((shared->shm_exclusive[i] && !ours) || shared->shm_shared[i] > 0)
            return SQLITE_BUSY;
    }
    for (unsigned i = first; i < first + count; i++) {
        shared->shm_exclusive[i] = true;
        self->shm_exclusive |= (uint16_t)(1U << i);
    }
    return SQLITE_OK;
}

static int shm_lock(sqlite3_file *base, int first, int count, int flags)
{
    struct vfs_file *self = (struct vfs_file *)base;

    if (flags & SQLITE_SHM_UNLOCK)
        return shm_unlock(self, (unsigned)first, (unsigned)count);
    if (flags & SQLITE_SHM_SHARED)
        return shm_lock_shared(self, (unsigned)first);
    return shm_lock_exclusive(self, (unsigned)first, (unsigned)count);
}

static void shm_barrier(sqlite3_file *base)
{
    INVARIANT(base != NULL); /* one thread: nothing to order */
}

static int shm_unmap(sqlite3_file *base, int delete)
{
    struct vfs_file *self = (struct vfs_file *)base;

    if (!self->shm_open)
        return SQLITE_OK;
    shm_unlock(self, 0, SHM_LOCKS);
    self->shm_open = false;
    if (--self->shared->shm_users == 0 || delete)
        regions_free(self->shared);
    return SQLITE_OK;
}

/* ------------------------------------------------------------------ the rest of a file */

static int remove_now(const char *path)
{
    const struct step step = step_take(SIM_DISK_NAMES, path, 0);

    if (!step_owe(&step))
        return EIO;
    const int error = disk_remove_now(path, &step);
    return step_end_owed(&step) ? error : EIO;
}

/* After a crash the handle is the world's to free, and whatever follows it may be gone. */
static int vfs_close_file(sqlite3_file *base)
{
    struct vfs_file *self = (struct vfs_file *)base;

    if (!sim_world.running)
        return SQLITE_OK;
    shm_unmap(base, 0);
    vfs_unlock(base, SQLITE_LOCK_NONE);
    if (self->remove_on_close && !sim_world.crashed && remove_now(self->file->path) != 0)
        trace_add("sql", "file not removed", 0);
    shared_leave(self->shared);
    file_close(self->file);
    return SQLITE_OK;
}

static int vfs_control(sqlite3_file *base, int operation, void *argument)
{
    if (operation == SQLITE_FCNTL_VFSNAME && argument) {
        *(char **)argument = sqlite3_mprintf("%s", VFS_NAME);
        return SQLITE_OK;
    }
    return base ? SQLITE_NOTFOUND : SQLITE_ERROR;
}

static int vfs_sector_size(sqlite3_file *base)
{
    return base ? SECTOR_BYTES : 0;
}

/* What SQLite's own VFS claims, so that the simulator tries what will run. */
static int vfs_characteristics(sqlite3_file *base)
{
    return base ? SQLITE_IOCAP_POWERSAFE_OVERWRITE : 0;
}

static const sqlite3_io_methods methods = {
    .iVersion = 2,
    .xClose = vfs_close_file,
    .xRead = vfs_read,
    .xWrite = vfs_write,
    .xTruncate = vfs_truncate,
    .xSync = vfs_sync,
    .xFileSize = vfs_file_size,
    .xLock = vfs_lock,
    .xUnlock = vfs_unlock,
    .xCheckReservedLock = vfs_check_reserved,
    .xFileControl = vfs_control,
    .xSectorSize = vfs_sector_size,
    .xDeviceCharacteristics = vfs_characteristics,
    .xShmMap = shm_map,
    .xShmLock = shm_lock,
    .xShmBarrier = shm_barrier,
    .xShmUnmap = shm_unmap,
};

/* ------------------------------------------------------------------ the VFS */

static unsigned disk_flags(int flags)
{
    unsigned wanted = flags & SQLITE_OPEN_READWRITE ? FILE_WRITE : FILE_READ;

    if (flags & SQLITE_OPEN_CREATE)
        wanted |= flags & SQLITE_OPEN_EXCLUSIVE ? FILE_CREATE | FILE_NEW : FILE_CREATE;
    return wanted;
}

static int open_now(sqlite3_filename path, int flags, struct file **file)
{
    int error = 0;

    if (!path)
        return disk_open_nameless(file);
    const bool makes = (flags & SQLITE_OPEN_CREATE) != 0;
    const struct step step =
        step_take(makes ? SIM_DISK_OPEN | SIM_DISK_NAMES : SIM_DISK_OPEN, path, 0);
    if (!step_owe(&step))
        return EIO;
    error = step.error ? step.error : disk_open_now(path, disk_flags(flags), file);
    return step_end_owed(&step) ? error : EIO;
}

static int vfs_open_file(sqlite3_vfs *vfs, sqlite3_filename path, sqlite3_file *base, int flags,
                         int *got_flags)
{
    const int kinds = SQLITE_OPEN_MAIN_JOURNAL | SQLITE_OPEN_WAL | SQLITE_OPEN_SUPER_JOURNAL;
    struct vfs_file *self = (struct vfs_file *)base;

    memset(self, 0, sizeof *self);
    if (sim_world.crashed || !vfs)
        return SQLITE_CANTOPEN;
    const int error = open_now(path, flags, &self->file);
    if (error == EROFS && (flags & SQLITE_OPEN_READWRITE))
        return vfs_open_file(vfs, path, base,
                             (flags & ~(SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE)) |
                                 SQLITE_OPEN_READONLY,
                             got_flags);
    if (error || !self->file)
        return error == EROFS ? SQLITE_READONLY : code_of(error, SQLITE_CANTOPEN);
    self->base.pMethods = &methods;
    self->shared = shared_of(self->file->inode);
    self->remove_on_close = path && (flags & SQLITE_OPEN_DELETEONCLOSE) != 0;
    self->sync_names = (flags & SQLITE_OPEN_CREATE) != 0 && (flags & kinds) != 0;
    if (got_flags)
        *got_flags = flags;
    return SQLITE_OK;
}

static int vfs_delete(sqlite3_vfs *vfs, const char *path, int sync_directory)
{
    if (sim_world.crashed || !vfs)
        return SQLITE_IOERR_DELETE;
    const int error = remove_now(path);

    if (error)
        return error == ENOENT ? SQLITE_IOERR_DELETE_NOENT : SQLITE_IOERR_DELETE;
    return sync_directory ? sync_names_of(path) : SQLITE_OK;
}

static int vfs_access(sqlite3_vfs *vfs, const char *path, int flags, int *result)
{
    struct place place;

    if (!vfs || sim_world.crashed)
        return SQLITE_IOERR_ACCESS;
    *result = names_find(path, &place) == 0 && place.inode;
    /* As SQLite's own: an empty file does not exist for it. */
    if (*result && flags == SQLITE_ACCESS_EXISTS)
        *result = place.inode->is_directory || place.inode->size > 0;
    if (*result && flags == SQLITE_ACCESS_READWRITE)
        *result = !disk_is_read_only();
    return SQLITE_OK;
}

static int vfs_full_name(sqlite3_vfs *vfs, const char *path, int room, char *into)
{
    const int length = snprintf(into, (size_t)room, "%s%s", path[0] == '/' ? "" : "/", path);

    return vfs && length > 0 && length < room ? SQLITE_OK : SQLITE_CANTOPEN;
}

static int vfs_randomness(sqlite3_vfs *vfs, int count, char *into)
{
    random_fill((struct span){(uint8_t *)into, (size_t)count});
    return vfs ? count : 0;
}

static int vfs_sleep(sqlite3_vfs *vfs, int microseconds)
{
    sim_world.debt_us += (uint64_t)microseconds;
    return vfs ? microseconds : 0;
}

/* Milliseconds since noon of 24 November 4714 BC, as SQLite counts. */
static int vfs_time(sqlite3_vfs *vfs, sqlite3_int64 *milliseconds)
{
    *milliseconds = INT64_C(210866760000000) + clock_wall_us() / 1000;
    return vfs ? SQLITE_OK : SQLITE_ERROR;
}

static int vfs_time_days(sqlite3_vfs *vfs, double *days)
{
    sqlite3_int64 milliseconds = 0;
    const int status = vfs_time(vfs, &milliseconds);

    *days = (double)milliseconds / 86400000.0;
    return status;
}

static int vfs_last_error(sqlite3_vfs *vfs, int room, char *into)
{
    if (vfs && room > 0)
        into[0] = '\0';
    return 0;
}

static sqlite3_vfs vfs_of_sim = {
    .iVersion = 2,
    .szOsFile = sizeof(struct vfs_file),
    .mxPathname = PATH_MAX_BYTES - 16,
    .zName = VFS_NAME,
    .xOpen = vfs_open_file,
    .xDelete = vfs_delete,
    .xAccess = vfs_access,
    .xFullPathname = vfs_full_name,
    .xRandomness = vfs_randomness,
    .xSleep = vfs_sleep,
    .xCurrentTime = vfs_time_days,
    .xGetLastError = vfs_last_error,
    .xCurrentTimeInt64 = vfs_time,
};

/* SQLite keeps one generator for the whole process, seeded at its first use; it starts afresh with
 * each world, so that its numbers come from the seed. */
void vfs_open(void)
{
    static bool configured;

    /* One thread has no use for SQLite's locks, nor does anybody ask what memory it takes. */
    if (!configured) {
        INVARIANT(sqlite3_config(SQLITE_CONFIG_SINGLETHREAD) == SQLITE_OK);
        INVARIANT(sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0) == SQLITE_OK);
        configured = true;
    }
    INVARIANT(sqlite3_initialize() == SQLITE_OK);
    INVARIANT(sqlite3_vfs_register(&vfs_of_sim, 1) == SQLITE_OK);
    sqlite3_randomness(0, NULL);
}

const char *disk_sqlite_vfs(void)
{
    return VFS_NAME;
}
