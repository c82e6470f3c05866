/* SPDX-License-Identifier: MIT */
/*
 * Repositories that are made, and their journals: the power is cut, or the process killed, before
 * each of the calls that they make, and before each of those that then finish them.  Whatever of
 * the names was durable, all of the steps are done in the end, or none is.  The same if one of the
 * calls fails.
 *
 * VD_CRASH_DRAWS (default 3): states after a cut from which recovering is cut as well.
 */
#include "drivers/check.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backup/journal.h"
#include "drivers/random.h"
#include "names.h"
#include "storage/redo.h"
#include "storage/storage.h"

#define REPO      "repo"
#define PIECE     4096u
#define CUTS_MAX  1000u
#define LOG       "000002.redo.part"
#define MASKS_MAX 64u /* states looked at for each cut: all of them up to this */

static struct vt_random rng;
static unsigned draws = 3;

/* Content: a letter for each piece of 4 KiB; NULL: there is no such file.  What ends in ".part" is
 * not durable when the journal is committed. */
struct file {
    const char *name;
    const char *before;
    const char *after;
    const char *again; /* made once the journal is done, by what comes next */
};

struct scenario {
    const char *name;
    enum vd_repository_access access;
    bool has_log;
    struct file files[10];
    const char *steps[10][2]; /* "from" to "to"; to NULL: removed */
};

static const struct scenario scenarios[] = {
    {
        .name = "a point is added",
        .access = VD_REPOSITORY_ADD,
        .files = {{"partial.qcow2", "q", NULL, "Q"},
                  {"partial.versions", "v", NULL, NULL},
                  {"000003.json.part", "m", NULL, NULL},
                  {"partial.json", "p", NULL, NULL},
                  {"000003.qcow2", NULL, "q", NULL},
                  {"000003.versions", NULL, "v", NULL},
                  {"000003.json", NULL, "m", NULL},
                  {"000002.qcow2", "2", "2", NULL}},
        .steps = {{"partial.qcow2", "000003.qcow2"},
                  {"partial.versions", "000003.versions"},
                  {"000003.json.part", "000003.json"},
                  {"partial.json", NULL}},
    },
    {
        .name = "a point is merged into a new file",
        .access = VD_REPOSITORY_CHANGE,
        .files = {{"000002.qcow2", "2", NULL, NULL},
                  {"000002.json", "m", NULL, NULL},
                  {"000003.qcow2", "3", "4", NULL},
                  {"000003.json", "n", "o", NULL},
                  {"000003.qcow2.part", "4", NULL, "5"},
                  {"000003.json.part", "o", NULL, NULL},
                  {"000001.qcow2", "1", "1", NULL}},
        .steps = {{"000003.qcow2.part", "000003.qcow2"},
                  {"000003.json.part", "000003.json"},
                  {"000002.json", NULL},
                  {"000002.qcow2", NULL}},
    },
    {
        .name = "a point takes over the file of another",
        .access = VD_REPOSITORY_CHANGE,
        .has_log = true,
        .files = {{"000002.qcow2", "abc", NULL, NULL},
                  {"000002.json", "m", NULL, NULL},
                  {"000003.qcow2", "3", "aXYZ", NULL},
                  {"000003.json", "n", "o", NULL},
                  {"000003.json.part", "o", NULL, NULL}},
        .steps = {{LOG, "000002.qcow2"},
                  {"000002.qcow2", "000003.qcow2"},
                  {"000003.json.part", "000003.json"},
                  {"000002.json", NULL},
                  {LOG, NULL}},
    },
    {
        .name = "names follow each other",
        .access = VD_REPOSITORY_CHANGE,
        .files = {{"a", "A", NULL, NULL},
                  {"b", "B", NULL, NULL},
                  {"c", "C", NULL, NULL},
                  {"d", NULL, "B", NULL},
                  {"e", "E", NULL, NULL}},
        .steps = {{"b", "c"}, {"c", "d"}, {"a", "e"}, {"e", NULL}},
    },
    {
        .name = "a name is given twice",
        .access = VD_REPOSITORY_CHANGE,
        .files = {{"a", "A", NULL, NULL}, {"b", "B", NULL, NULL}, {"c", "C", "B", NULL}},
        .steps = {{"a", "c"}, {"b", "c"}},
    },
};

static bool is_part(const char *name)
{
    size_t length = strlen(name);
    return length > 5 && strcmp(name + length - 5, ".part") == 0;
}

static bool put_file(const char *name, const char *content)
{
    char path[128], piece[PIECE];
    snprintf(path, sizeof(path), REPO "/%s", name);
    FILE *file = fopen(path, "we");
    if (!file)
        return false;
    for (const char *letter = content; *letter; letter++) {
        memset(piece, *letter, sizeof(piece));
        if (fwrite(piece, sizeof(piece), 1, file) != 1)
            return false;
    }
    return fclose(file) == 0;
}

/* "": it holds something else; NULL: it is not there. */
static const char *content_of(const char *name, char letters[16])
{
    char path[128], piece[PIECE], same[PIECE];
    snprintf(path, sizeof(path), REPO "/%s", name);
    FILE *file = fopen(path, "re");
    if (!file)
        return NULL;
    size_t count = 0, got;
    while ((got = fread(piece, 1, sizeof(piece), file)) == sizeof(piece) && count < 15) {
        memset(same, piece[0], sizeof(same));
        letters[count++] = memcmp(piece, same, sizeof(same)) == 0 ? piece[0] : '?';
    }
    fclose(file);
    letters[count] = '\0';
    return got == 0 ? letters : "";
}

/* What does not fit; NULL: all of the files are as they were, or as they are to be.  If nothing was
 * done, nobody needs what ends in ".part". */
static const char *unlike(const struct scenario *scenario, bool is_done)
{
    for (const struct file *file = scenario->files; file->name; file++) {
        char letters[16];
        const char *wanted = is_done ? file->after : file->before;
        const char *found = content_of(file->name, letters);
        if (!is_done && is_part(file->name))
            continue;
        if (is_done && file->again && found)
            continue; /* which is not durable at once */
        if ((!found) != (!wanted) || (found && strcmp(found, wanted) != 0))
            return file->name;
    }
    return is_done && scenario->has_log && access(REPO "/" LOG, F_OK) == 0 ? LOG : NULL;
}

/* ---- Processes that are cut ---- */

/* The middle of the file is changed, and it grows. */
static bool make_log(struct vdisk_repository *repository, uint8_t *digest)
{
    struct vd_storage *file = NULL, *log = NULL, *changed = NULL;
    struct vd_storage_options create = {.flags = VD_STORAGE_WRITE | VD_STORAGE_CREATE |
                                                 VD_STORAGE_EXCLUSIVE};
    char pieces[3 * PIECE];
    for (unsigned i = 0; i < 3; i++)
        memset(pieces + i * PIECE, "XYZ"[i], PIECE);
    bool ok = vd_storage_open(REPO "/000002.qcow2", NULL, &file, NULL) == 0 &&
              vd_storage_open(REPO "/" LOG, &create, &log, NULL) == 0 &&
              vd_redo_open(file, log, vd_repository_digest_kind(repository), &changed, NULL) == 0 &&
              vd_storage_pwrite(changed, pieces, sizeof(pieces), PIECE, NULL) == 0 &&
              vd_redo_finish(changed, digest, NULL) == 0;
    vd_storage_close(changed);
    vd_storage_close(log);
    vd_storage_close(file);
    return ok;
}

static bool add_steps(const struct scenario *scenario, struct vd_journal *journal,
                      const uint8_t *digest)
{
    for (int i = 0; scenario->steps[i][0]; i++) {
        const char *from = scenario->steps[i][0], *to = scenario->steps[i][1];
        int ret;
        if (scenario->has_log && i == 0)
            ret = vd_journal_apply(journal, from, digest, to, NULL);
        else
            ret = to ? vd_journal_rename(journal, from, to, NULL)
                     : vd_journal_remove(journal, from, NULL);
        if (ret < 0)
            return false;
    }
    return true;
}

static bool put_files(const struct scenario *scenario, bool parts)
{
    for (const struct file *file = scenario->files; file->name; file++)
        if (file->before && is_part(file->name) == parts && !put_file(file->name, file->before))
            return false;
    return true;
}

/* The journal must be gone for good before its names are used again. */
static bool go_on(const struct scenario *scenario)
{
    for (const struct file *file = scenario->files; file->name; file++) {
        char path[128];
        if (!file->again)
            continue;
        if (!put_file(file->name, file->again))
            return false;
        snprintf(path, sizeof(path), REPO "/%s", file->name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || fsync(fd) < 0)
            return false;
        close(fd);
    }
    return true;
}

/* What commit() ends with if the journal failed. */
#define NOTHING_BEGUN 4
#define HAS_BEGUN     5

/* Commits the journal of the scenario: what a process ends with. */
static int commit(const struct scenario *scenario, struct vt_names_event event)
{
    uint8_t digest[VD_DIGEST_BYTES_MAX];
    struct vdisk_repository *repository = NULL;
    struct vd_journal journal;
    if (vd_repository_open(REPO, scenario->access, NULL, &repository, NULL) < 0)
        return 1;
    if (!put_files(scenario, false) || (scenario->has_log && !make_log(repository, digest)))
        return 2;
    vt_names_record(REPO, "keep", event);
    struct vdisk_error err = {0};
    if (!put_files(scenario, true) || vd_journal_begin(&journal, repository, NULL) < 0 ||
        !add_steps(scenario, &journal, digest))
        return 3;
    if (vd_journal_commit(&journal, &err) < 0)
        return err.code == EIO && *err.message ? journal.has_begun ? HAS_BEGUN : NOTHING_BEGUN : 6;
    return event.fails || go_on(scenario) ? 0 : 7;
}

/* Opens the repository, which finishes the journal. */
static int recover(enum vd_repository_access access, unsigned cut)
{
    struct vdisk_repository *repository = NULL;
    struct vdisk_error err = {0};
    vt_names_record(REPO, "keep", (struct vt_names_event){.cut = cut});
    if (vd_repository_open(REPO, access, NULL, &repository, &err) < 0) {
        fprintf(stderr, "# %s\n", err.message);
        return 8;
    }
    return 0;
}

/* Its exit status: of a fork of this program. */
static int status_of(pid_t pid)
{
    int status = -1;
    assert_true(pid >= 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static int run_commit(const struct scenario *scenario, struct vt_names_event event)
{
    vt_names_empty("keep");
    pid_t pid = fork();
    if (pid == 0)
        _exit(commit(scenario, event));
    return status_of(pid);
}

static int run_recover(enum vd_repository_access access, unsigned cut)
{
    vt_names_empty("keep");
    pid_t pid = fork();
    if (pid == 0)
        _exit(recover(access, cut));
    return status_of(pid);
}

/* ---- States ---- */

static enum vd_repository_access draw_access(void)
{
    return (enum vd_repository_access)(VD_REPOSITORY_READ + vt_random_below(&rng, 3));
}

/* Opens it, and looks: 1: all was done; 0: nothing was. */
static int open_and_look(const struct scenario *scenario, const char *when, bool must_be_done)
{
    struct vdisk_repository *repository = NULL;
    struct vdisk_error err = {0};
    if (vd_repository_open(REPO, draw_access(), NULL, &repository, &err) < 0)
        fail_msg("%s: %s: %s", scenario->name, when, err.message);
    assert_int_equal(vd_journal_is_pending(repository, NULL), 0);
    vdisk_repository_close(repository);
    const char *not_done = unlike(scenario, true);
    if (!not_done)
        return 1;
    const char *not_left = unlike(scenario, false);
    if (not_left || must_be_done)
        fail_msg("%s: %s: neither all was done (%s) nor nothing (%s)", scenario->name, when,
                 not_done, not_left ? not_left : "which it was, but the journal was durable");
    return 0;
}

/* Which pending changes survive: all combinations, or random ones. */
static uint64_t mask_of(unsigned index, unsigned pending)
{
    if (pending < 6 || index < 2)
        return index == 1 && pending >= 6 ? UINT64_MAX : index;
    return vt_random_next(&rng);
}

static unsigned masks_of(unsigned pending)
{
    return pending < 6 ? 1u << pending : MASKS_MAX;
}

/* Recovering is cut before each of its calls. */
static void cut_recovery(const struct scenario *scenario, const char *start, bool must_be_done)
{
    enum vd_repository_access access = draw_access();
    for (unsigned cut = 1; cut < CUTS_MAX; cut++) {
        char when[64];
        vt_names_copy(start, REPO);
        int status = run_recover(access, cut);
        if (status != 0 && status != VT_NAMES_CUT)
            fail_msg("%s: recovering, cut %u: exit status %d", scenario->name, cut, status);
        unsigned pending = vt_names_pending();
        for (unsigned i = 0; i < masks_of(pending); i++) {
            vt_names_restore(REPO, mask_of(i, pending));
            snprintf(when, sizeof(when), "recovery cut before call %u, state %u", cut, i);
            open_and_look(scenario, when, must_be_done);
        }
        if (status == 0)
            return;
    }
    fail_msg("%s: recovering makes %u calls", scenario->name, CUTS_MAX);
}

/* All the states after a cut; 0, or what the process that makes @cut ended with. */
static int cut_commit(const struct scenario *scenario, unsigned cut, unsigned counts[2])
{
    char when[64], start[32];
    vt_names_copy("template", REPO);
    int status = run_commit(scenario, (struct vt_names_event){.cut = cut});
    if (status != 0 && status != VT_NAMES_CUT)
        fail_msg("%s: cut %u: exit status %d", scenario->name, cut, status);
    unsigned pending = vt_names_pending();
    bool must_be_done = status == 0 || vt_names_is_durable("journal.json");
    for (unsigned i = 0; i < masks_of(pending); i++) {
        vt_names_restore(REPO, mask_of(i, pending));
        snprintf(when, sizeof(when), "cut before call %u, state %u", cut, i);
        counts[open_and_look(scenario, when, must_be_done)]++;
    }
    for (unsigned i = 0; i < draws; i++) {
        snprintf(start, sizeof(start), "start-%u", i);
        vt_names_restore(start, vt_random_next(&rng));
    }
    for (unsigned i = 0; i < draws; i++) {
        snprintf(start, sizeof(start), "start-%u", i);
        cut_recovery(scenario, start, must_be_done);
    }
    return status;
}

/* The call that fails; false: there are not so many. */
static bool fail_commit(const struct scenario *scenario, unsigned fails)
{
    char when[64];
    vt_names_copy("template", REPO);
    int status = run_commit(scenario, (struct vt_names_event){.fails = fails});
    if (status != 0 && status != NOTHING_BEGUN && status != HAS_BEGUN)
        fail_msg("%s: call %u fails: exit status %d", scenario->name, fails, status);
    bool is_made = fails <= vt_names_calls();
    assert_true(is_made || status == 0);
    snprintf(when, sizeof(when), "call %u has failed", fails);
    assert_int_equal(open_and_look(scenario, when, false), status != NOTHING_BEGUN);
    return is_made;
}

static void run(const struct scenario *scenario)
{
    struct vdisk_repository *repository = NULL;
    vt_names_empty(REPO);
    VT_OK(vd_repository_open(REPO, VD_REPOSITORY_ADD, NULL, &repository, &vt_err));
    vdisk_repository_close(repository);
    vt_names_copy(REPO, "template");
    unsigned counts[2] = {0}, cut = 1;
    while (cut < CUTS_MAX && cut_commit(scenario, cut, counts) == VT_NAMES_CUT)
        cut++;
    print_message("# %s: %u calls, %u states, of these %u with all done\n", scenario->name, cut - 1,
                  counts[0] + counts[1], counts[1]);
    assert_true(cut < CUTS_MAX);
    assert_true(counts[0] > 0 && counts[1] > 0);
    unsigned fails = 1;
    while (fails < CUTS_MAX && fail_commit(scenario, fails))
        fails++;
    assert_in_range(fails, 10, CUTS_MAX - 1);
}

/* A repository that is being made: there is none yet, or it is whole. */
static void a_repository_is_made(void **state)
{
    (void)state;
    struct vdisk_repository *repository = NULL;
    int status = VT_NAMES_CUT;
    unsigned whole = 0, none = 0;
    for (unsigned cut = 1; status == VT_NAMES_CUT && cut < CUTS_MAX; cut++) {
        vt_names_empty(REPO);
        vt_names_empty("keep");
        pid_t pid = fork();
        if (pid == 0)
            _exit(recover(VD_REPOSITORY_ADD, cut));
        status = status_of(pid);
        unsigned pending = vt_names_pending();
        for (unsigned i = 0; i < masks_of(pending); i++) {
            vt_names_restore(REPO, mask_of(i, pending));
            int ret = vd_repository_open(REPO, VD_REPOSITORY_READ, NULL, &repository, NULL);
            if (ret != 0 && (ret != -ENOENT || status == 0))
                fail_msg("cut before call %u, state %u: %d", cut, i, ret);
            *(ret == 0 ? &whole : &none) += 1;
            if (ret == 0)
                vdisk_repository_close(repository);
            VT_OK(vd_repository_open(REPO, VD_REPOSITORY_ADD, NULL, &repository, &vt_err));
            vdisk_repository_close(repository);
        }
    }
    assert_int_equal(status, 0);
    assert_true(whole > 0 && none > 0);
}

#define RUN(name, index)           \
    static void name(void **state) \
    {                              \
        (void)state;               \
        run(&scenarios[index]);    \
    }

RUN(a_point_is_added, 0)
RUN(a_point_is_merged_into_a_new_file, 1)
RUN(a_point_takes_over_the_file_of_another, 2)
RUN(names_follow_each_other, 3)
RUN(a_name_is_given_twice, 4)

int main(void)
{
    char work_dir[256], command[300];
    const char *tmp = getenv("TMPDIR"), *text = getenv("VD_CRASH_SEED");
    uint64_t seed = text ? strtoull(text, NULL, 0) : 0x6a6f75726e616cu;
    print_message("# VD_CRASH_SEED=%" PRIu64 "\n", seed);
    rng.state = seed;
    text = getenv("VD_CRASH_DRAWS");
    draws = text ? (unsigned)strtoul(text, NULL, 10) : draws;
    snprintf(work_dir, sizeof(work_dir), "%s/test-crash-journal-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(work_dir) || chdir(work_dir) < 0)
        return 1;
    vt_names_init();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_repository_is_made),
        cmocka_unit_test(a_point_is_added),
        cmocka_unit_test(a_point_is_merged_into_a_new_file),
        cmocka_unit_test(a_point_takes_over_the_file_of_another),
        cmocka_unit_test(names_follow_each_other),
        cmocka_unit_test(a_name_is_given_twice),
    };
    cmocka_set_message_output(CM_OUTPUT_TAP);
    int ret = cmocka_run_group_tests(tests, NULL, NULL);
    snprintf(command, sizeof(command), "rm -rf '%s'", work_dir);
    return chdir("/") == 0 && system(command) == 0 ? ret : 1;
}
