/* SPDX-License-Identifier: MIT */
/*
 * backup/prune, cut off: the process ends at one of its calls that change files, in the middle of
 * what is written, or the call fails.  Whoever opens the repository next finds each point that
 * stays as it was made.
 *
 * Random, from a seed that is printed.  VDISK_TEST_SEED sets it, VDISK_TEST_ROUNDS (default 20) how
 * many times each kind of work is cut off; 0: at each of its calls.
 */
#include "depot-fixture.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#define CUT_STATUS 77

static uint64_t seed;

/* ---- Calls that change files ---- */

/* Calls until one is the last, or fails; 0: all are as usual. */
static atomic_long countdown;
static bool fails; /* it is told that there is no space */

static bool is_the_one(void)
{
    return atomic_load(&countdown) > 0 && atomic_fetch_sub(&countdown, 1) == 1;
}

/* What becomes of the call if its time has come: it fails, or never returns. */
static bool has_failed(void)
{
    if (!is_the_one())
        return false;
    if (!fails)
        _exit(CUT_STATUS);
    errno = ENOSPC;
    return true;
}

/* In place of those of the C library: what the program links itself comes first. */
ssize_t pwritev(int fd, const struct iovec *iov, int iov_entries, off_t offset)
{
    unsigned long low = (unsigned long)offset, high = (unsigned long)((uint64_t)offset >> 32);
    if (is_the_one()) {
        struct iovec first = {.iov_base = iov[0].iov_base, .iov_len = iov[0].iov_len / 2};
        (void)syscall(SYS_pwritev, fd, &first, 1, low, high);
        if (!fails)
            _exit(CUT_STATUS);
        errno = ENOSPC;
        return -1;
    }
    return (ssize_t)syscall(SYS_pwritev, fd, iov, iov_entries, low, high);
}

/* Only tried: it may always be answered so. */
ssize_t pwritev2(int fd, const struct iovec *iov, int iov_entries, off_t offset, int flags)
{
    (void)fd, (void)iov, (void)iov_entries, (void)offset, (void)flags;
    errno = EAGAIN;
    return -1;
}

ssize_t pwrite(int fd, const void *buf, size_t length, off_t offset)
{
    struct iovec iov = {.iov_base = (void *)(uintptr_t)buf, .iov_len = length};
    return pwritev(fd, &iov, 1, offset);
}

ssize_t write(int fd, const void *buf, size_t length)
{
    if (is_the_one()) {
        (void)syscall(SYS_write, fd, buf, length / 2);
        if (!fails)
            _exit(CUT_STATUS);
        errno = ENOSPC;
        return -1;
    }
    return (ssize_t)syscall(SYS_write, fd, buf, length);
}

int ftruncate(int fd, off_t size)
{
    return has_failed() ? -1 : (int)syscall(SYS_ftruncate, fd, size);
}

int fallocate(int fd, int mode, off_t offset, off_t length)
{
    return has_failed() ? -1 : (int)syscall(SYS_fallocate, fd, mode, offset, length);
}

int rename(const char *from, const char *to)
{
    return has_failed() ? -1 : (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int renameat2(int from_fd, const char *from, int to_fd, const char *to, unsigned flags)
{
    return has_failed() ? -1 : (int)syscall(SYS_renameat2, from_fd, from, to_fd, to, flags);
}

int unlink(const char *name)
{
    return has_failed() ? -1 : (int)syscall(SYS_unlinkat, AT_FDCWD, name, 0);
}

int unlinkat(int fd, const char *name, int flags)
{
    return has_failed() ? -1 : (int)syscall(SYS_unlinkat, fd, name, flags);
}

int fsync(int fd)
{
    return has_failed() ? -1 : (int)syscall(SYS_fsync, fd);
}

int fdatasync(int fd)
{
    return has_failed() ? -1 : (int)syscall(SYS_fdatasync, fd);
}

/* ---- Copies of a repository ---- */

static void copy_file(int from_folder, int to_folder, const char *name)
{
    uint8_t bytes[16384];
    int from = openat(from_folder, name, O_RDONLY | O_CLOEXEC);
    int to = openat(to_folder, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    ssize_t length;
    assert_true(from >= 0 && to >= 0);
    while ((length = read(from, bytes, sizeof(bytes))) > 0)
        assert_int_equal(write(to, bytes, (size_t)length), length);
    assert_int_equal(length, 0);
    close(from);
    close(to);
}

/* *to becomes what @from is. */
static void copy_directory(const char *from, const char *to)
{
    if (access(to, F_OK) == 0)
        remove_directory(to);
    assert_int_equal(mkdir(to, 0700), 0);
    DIR *from_folder = opendir(from), *to_folder = opendir(to);
    assert_true(from_folder && to_folder);
    for (struct dirent *entry; (entry = readdir(from_folder));)
        if (entry->d_name[0] != '.')
            copy_file(dirfd(from_folder), dirfd(to_folder), entry->d_name);
    closedir(from_folder);
    closedir(to_folder);
}

/* ---- Work that is cut off ---- */

/* What goes: those from first up to, not including, last; or with first 0 all but the last. */
struct work {
    uint64_t first;
    uint64_t last;
};

static int try_work(struct depot *depot, const struct work *work, struct vdisk_error *err)
{
    struct vdisk_prune_options options = {.struct_bytes = sizeof(options)};
    if (!work->first) {
        options.keep_last = 1;
        return vdisk_repository_prune(depot->repository, &options, NULL, err);
    }
    if (!vd_repository_point_of(depot->repository, work->first))
        return 0;
    return vdisk_repository_merge(depot->repository, index_of(depot, work->first),
                                  index_of(depot, work->last), &options, NULL, err);
}

/* What has failed is tried once more: that is no harm to what has begun. */
static int do_work(struct depot *depot, const struct work *work, struct vdisk_error *err)
{
    int ret =
        vd_repository_open(depot->path, VD_REPOSITORY_CHANGE, &depot->key, &depot->repository, err);
    if (ret < 0)
        return ret;
    ret = try_work(depot, work, err);
    if (ret < 0)
        (void)try_work(depot, work, err);
    depot_close(depot);
    return ret;
}

/* Returns whether it has not come to its end. */
static bool cut(struct depot *depot, const struct work *work, long calls)
{
    int status = 0;
    fails = below(depot, 2);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct vdisk_error err = {0};
        atomic_store(&countdown, calls);
        int ret = do_work(depot, work, &err);
        _exit(ret == 0 ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_true(WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == (fails ? 1 : CUT_STATUS));
    return WEXITSTATUS(status) != 0;
}

/* All points that have to stay are there; others may be. */
static void check_all(struct depot *depot, const struct work *work)
{
    depot_open(depot, VD_REPOSITORY_CHANGE);
    for (size_t i = 0; i < depot->point_entries; i++) {
        uint64_t number = depot->points[i].number;
        bool may_go = work->first ? number >= work->first && number < work->last
                                  : i + 1 < depot->point_entries;
        assert_true(may_go || vd_repository_point_of(depot->repository, number));
    }
    depot_look(depot);
    depot_check(depot);
    depot_close(depot);
}

/* Cut off somewhere; perhaps once more early in what comes next; and opened. */
static void one_cut(struct depot *depot, const struct work *work, const char *original, long calls)
{
    copy_directory(original, depot->path);
    if (cut(depot, work, calls) && below(depot, 2))
        cut(depot, work, 1 + (long)below(depot, 12));
    check_all(depot, work);
}

/* How many calls does it take? */
static long count_calls(struct depot *depot, const struct work *work, const char *original)
{
    const long many = 1000000;
    int pipes[2];
    long left = 0;
    copy_directory(original, depot->path);
    assert_int_equal(pipe(pipes), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct vdisk_error err = {0};
        atomic_store(&countdown, many);
        int ret = do_work(depot, work, &err);
        left = atomic_load(&countdown);
        atomic_store(&countdown, 0);
        _exit(ret == 0 && write(pipes[1], &left, sizeof(left)) == sizeof(left) ? 0 : 1);
    }
    int status = 0;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(read(pipes[0], &left, sizeof(left)), sizeof(left));
    close(pipes[0]);
    close(pipes[1]);
    check_all(depot, work);
    return many - left;
}

static void cut_everywhere(struct depot *depot, const struct work *work)
{
    const char *wanted = getenv("VDISK_TEST_ROUNDS");
    long rounds = wanted ? strtol(wanted, NULL, 0) : VT_ROUNDS(20);
    char original[PATH_BYTES];
    snprintf(original, sizeof(original), "%s/original", depot->directory);
    depot_close(depot);
    copy_directory(depot->path, original);
    long calls = count_calls(depot, work, original);
    print_message("# %ld calls that change files\n", calls);
    for (long i = 1; i <= calls && (!rounds || rounds >= calls); i++)
        one_cut(depot, work, original, i);
    for (long i = 0; i < rounds && rounds < calls; i++)
        one_cut(depot, work, original, 1 + (long)below(depot, (uint64_t)calls));
    remove_directory(original);
}

/* ---- Kinds of work ---- */

static uint64_t add(struct depot *depot, enum vdisk_point_kind kind, uint64_t parent)
{
    struct recipe recipe = {.kind = kind, .parent = parent, .format = "qcow2"};
    for (unsigned i = 0; i < 3; i++)
        disk_write(depot, 9000);
    return depot_add(depot, &recipe);
}

static void fill_disk(struct depot *depot)
{
    disk_resize(depot, DISK_BYTES_MAX / 3);
    vt_random_fill(&depot->random, depot->bytes, depot->size);
}

/* By a new file in the middle of a chain. */
static void new_file(void **state)
{
    (void)state;
    struct depot depot;
    struct work work = {.first = 2, .last = 4};
    depot_init(&depot, seed);
    depot.cluster_bytes = 4096;
    add(&depot, VDISK_POINT_FULL, 0);
    for (uint64_t i = 1; i < 5; i++)
        add(&depot, VDISK_POINT_INCREMENTAL, i);
    cut_everywhere(&depot, &work);
    depot_destroy(&depot);
}

/* By a log for the file of the full point. */
static void log_of_changes(void **state)
{
    (void)state;
    struct depot depot;
    struct work work = {.first = 1, .last = 3};
    depot_init(&depot, seed);
    depot.cluster_bytes = 4096;
    fill_disk(&depot);
    add(&depot, VDISK_POINT_FULL, 0);
    disk_resize(&depot, DISK_BYTES_MAX / 4);
    add(&depot, VDISK_POINT_INCREMENTAL, 1);
    disk_resize(&depot, DISK_BYTES_MAX / 2);
    add(&depot, VDISK_POINT_INCREMENTAL, 2);
    add(&depot, VDISK_POINT_INCREMENTAL, 3);
    cut_everywhere(&depot, &work);
    depot_destroy(&depot);
}

/* A full point with several on it. */
static void several_children(void **state)
{
    (void)state;
    struct depot depot;
    struct work work = {.first = 1, .last = 2};
    depot_init(&depot, seed);
    depot.cluster_bytes = 4096;
    fill_disk(&depot);
    add(&depot, VDISK_POINT_FULL, 0);
    add(&depot, VDISK_POINT_DIFFERENTIAL, 1);
    add(&depot, VDISK_POINT_DIFFERENTIAL, 1);
    add(&depot, VDISK_POINT_INCREMENTAL, 3);
    cut_everywhere(&depot, &work);
    depot_destroy(&depot);
}

/* Points that nobody needs, too. */
static void whole_prune(void **state)
{
    (void)state;
    struct depot depot;
    struct work work = {.first = 0};
    depot_init(&depot, seed);
    depot.cluster_bytes = 4096;
    add(&depot, VDISK_POINT_FULL, 0);
    add(&depot, VDISK_POINT_INCREMENTAL, 1);
    add(&depot, VDISK_POINT_FULL, 0);
    add(&depot, VDISK_POINT_DIFFERENTIAL, 3);
    add(&depot, VDISK_POINT_DIFFERENTIAL, 3);
    add(&depot, VDISK_POINT_INCREMENTAL, 5);
    cut_everywhere(&depot, &work);
    depot_destroy(&depot);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(new_file),
        cmocka_unit_test(log_of_changes),
        cmocka_unit_test(several_children),
        cmocka_unit_test(whole_prune),
    };
    const char *wanted = getenv("VDISK_TEST_SEED");
    seed = wanted ? strtoull(wanted, NULL, 0) : (uint64_t)time(NULL);
    cmocka_set_message_output(CM_OUTPUT_TAP);
    printf("# seed %" PRIu64 "\n", seed);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
