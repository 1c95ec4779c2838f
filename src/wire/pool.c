/*
 * A thread's free input buffers. Fibers stay on their thread, so no lock is needed; the list is
 * freed when the thread ends. Waiting sessions hold none, so few are enough for very many
 * connections.
 */
#include "wire/pool.h"

#include <pthread.h>

enum { POOL_KEPT_MAX = 64 };

struct pool {
    uint8_t *kept[POOL_KEPT_MAX];
    unsigned count;
};

static _Thread_local struct pool *thread_pool;
static pthread_key_t pool_key;
static pthread_once_t pool_once = PTHREAD_ONCE_INIT;
static bool pool_key_made;

static void pool_free(void *argument)
{
    struct pool *pool = argument;

    while (pool->count > 0)
        free(pool->kept[--pool->count]);
    free(pool);
    thread_pool = NULL;
}

static void pool_key_make(void)
{
    pool_key_made = pthread_key_create(&pool_key, pool_free) == 0;
}

/* NULL when memory is short: then buffers are simply not kept. */
static struct pool *pool_of_thread(void)
{
    if (thread_pool)
        return thread_pool;
    pthread_once(&pool_once, pool_key_make);
    struct pool *pool = pool_key_made ? calloc(1, sizeof *pool) : NULL;
    if (pool && pthread_setspecific(pool_key, pool) != 0) {
        free(pool);
        pool = NULL;
    }
    thread_pool = pool;
    return pool;
}

uint8_t *pool_take(void)
{
    struct pool *pool = pool_of_thread();

    return pool && pool->count > 0 ? pool->kept[--pool->count] : malloc(WIRE_BUFFER_BYTES);
}

void pool_give(uint8_t *buffer)
{
    struct pool *pool = buffer ? pool_of_thread() : NULL;

    if (pool && pool->count < POOL_KEPT_MAX)
        pool->kept[pool->count++] = buffer;
    else
        free(buffer);
}
