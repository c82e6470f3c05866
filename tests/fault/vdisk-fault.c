/* SPDX-License-Identifier: MIT */
/*
 * The whole command, with one allocation or call of the system made to fail in each run.
 *
 *   vdisk-fault [COMMAND...]     "qcow2" is all of commands-qcow2.c
 *
 * For every command below and N = 1, 2, ...: fresh vt_fault_fixtures, a child in which the Nth call
 * fails, and then: no signal, no hang, no leak (sanitizer builds), exit status 0 with the right
 * result, or another with a message; sources untouched; the target absent or sound; nothing left
 * behind.
 *
 * VD_FAULT_FULL=1: every N.  Else VD_FAULT_CASES, default 6, of each command and kind of fault.
 */
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/cli.h"
#include "bench.h"
#include "inject.h"

#define HANG_SECONDS 20

void vt_fault_die(const char *what)
{
    fprintf(stderr, "vdisk-fault: %s: %s\n", what, strerror(errno));
    exit(99);
}

static size_t count_args(const char *const *argv)
{
    size_t count = 0;
    while (count < ARGS_MAX && argv[count])
        count++;
    return count;
}

static void redirect(const char *path, int fd)
{
    int file = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0666);
    if (file < 0 || dup2(file, fd) < 0)
        vt_fault_die(path);
    close(file);
}

/* Runs the command in a child; returns its wait status. */
static int run(struct bench *bench, const char *const *args, enum vt_fault_class fault,
               uint64_t nth)
{
    size_t count = count_args(args);
    char *argv[ARGS_MAX + 2] = {strdup("vdisk")};
    for (size_t i = 0; i < count; i++)
        argv[i + 1] = strdup(args[i]);
    fflush(NULL);
    pid_t child = fork();
    if (child < 0)
        vt_fault_die("fork");
    if (child == 0) {
        redirect("../stdout", STDOUT_FILENO);
        redirect("../stderr", STDERR_FILENO);
        alarm(HANG_SECONDS);
        vt_inject_start(fault, nth);
        int status = vd_cli_main((int)count + 1, argv);
        bench->report->seen = vt_inject_stop();
        snprintf(bench->report->where, sizeof(bench->report->where), "%s", vt_inject_where());
        for (size_t i = 0; i <= count; i++)
            free(argv[i]);
        exit(status); /* where a sanitizer looks for leaks */
    }
    int status;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            vt_fault_die("waitpid");
    for (size_t i = 0; i <= count; i++)
        free(argv[i]);
    return status;
}

bool vt_fault_succeeds(struct bench *bench, const char *const *args)
{
    int status = run(bench, args, VT_FAULT_ALLOC, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

void vt_fault_read_text(const char *path, char *text, size_t room)
{
    FILE *file = fopen(path, "r");
    size_t length = file ? fread(text, 1, room - 1, file) : 0;
    text[length] = '\0';
    if (file)
        fclose(file);
}

/* ---- Cases --------------------------------------------------------------------------------- */

static void restore(const struct command *command)
{
    for (size_t i = 0; i < FILES_MAX && command->restored[i]; i++) {
        char path[64];
        snprintf(path, sizeof(path), "../pristine/%s", command->restored[i]);
        unlink(command->restored[i]);
        vt_fault_copy_file(path, command->restored[i]);
    }
    for (size_t i = 0; i < FILES_MAX && command->removed[i]; i++)
        unlink(command->removed[i]);
}

static void prepare(struct bench *bench, const struct command *command)
{
    restore(command);
    for (size_t i = 0; i < vt_fault_fixture_entries; i++)
        if (stat(vt_fault_fixtures[i], &bench->pristine[i]) < 0)
            vt_fault_die(vt_fault_fixtures[i]);
}

/* ---- Verdicts ------------------------------------------------------------------------------ */

static bool is_in(const char *const *list, size_t entries, const char *name)
{
    for (size_t i = 0; i < entries && list[i]; i++)
        if (strcmp(list[i], name) == 0)
            return true;
    return false;
}

static bool sources_are_untouched(const struct bench *bench, const struct command *command)
{
    for (size_t i = 0; i < vt_fault_fixture_entries; i++) {
        struct stat now;
        const struct stat *then = &bench->pristine[i];
        if (is_in(command->restored, FILES_MAX, vt_fault_fixtures[i]))
            continue;
        if (stat(vt_fault_fixtures[i], &now) < 0 || now.st_ino != then->st_ino ||
            now.st_size != then->st_size || now.st_mtim.tv_sec != then->st_mtim.tv_sec ||
            now.st_mtim.tv_nsec != then->st_mtim.tv_nsec)
            return false;
    }
    return true;
}

/* Every file here is a fixture or the target. */
static bool nothing_is_left_behind(const struct command *command, char *extra, size_t room)
{
    DIR *folder = opendir(".");
    const struct dirent *entry;
    bool ok = true;
    while (folder && (entry = readdir(folder)) != NULL)
        if (entry->d_name[0] != '.' &&
            !is_in(vt_fault_fixtures, vt_fault_fixture_entries, entry->d_name) &&
            !is_in(command->removed, FILES_MAX, entry->d_name)) {
            snprintf(extra, room, "left behind: %s", entry->d_name);
            unlink(entry->d_name);
            ok = false;
        }
    if (folder)
        closedir(folder);
    return ok;
}

static bool target_is_sound(struct bench *bench, const struct command *command)
{
    if (!command->target || access(command->target, F_OK) < 0)
        return true;
    const char *args[ARGS_MAX] = {"check", "-q", command->target};
    int status = run(bench, args, VT_FAULT_ALLOC, 0);
    /* 3: leaked clusters, which a failure may leave. */
    return WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 3);
}

/* The last thing that can fail is to make the new name durable. */
static bool is_done_all_the_same(const struct bench *bench, const struct command *command)
{
    struct stat now;
    if (!command->restored[0])
        return access(command->target, F_OK) == 0;
    for (size_t i = 0; i < vt_fault_fixture_entries; i++)
        if (strcmp(vt_fault_fixtures[i], command->restored[0]) == 0)
            return stat(command->restored[0], &now) == 0 && now.st_ino != bench->pristine[i].st_ino;
    return false;
}

/* NULL, or what is wrong after a run that ended with @status. */
static const char *judge(struct bench *bench, const struct command *command, int status,
                         const char *where, const char *expected_output)
{
    static char text[20000];
    static char message[300];
    bool is_unlink = strcmp(where, "unlink") == 0;
    bool resumes =
        command->resumes && !is_unlink && !(command->once && is_done_all_the_same(bench, command));
    if (WIFSIGNALED(status)) {
        snprintf(message, sizeof(message), "killed by signal %d%s", WTERMSIG(status),
                 WTERMSIG(status) == SIGALRM ? ": it hung" : "");
        return message;
    }
    vt_fault_read_text("../stderr", text, sizeof(text));
    /* A check tells of places that it could not look at as it tells of other findings. */
    if (WEXITSTATUS(status) != 0 && strncmp(text, "vdisk: ", 7) != 0 &&
        !(strncmp(command->name, "check", 5) == 0 && text[0])) {
        snprintf(message, sizeof(message), "status %d, and standard error is: %.200s",
                 WEXITSTATUS(status), text);
        return message;
    }
    if (!sources_are_untouched(bench, command))
        return "a source was changed";
    if (!nothing_is_left_behind(command, message, sizeof(message)) && !is_unlink)
        return message;
    if (command->always[0] && !vt_fault_succeeds(bench, command->always))
        return "the disk is not what it was";
    if (WEXITSTATUS(status) == 0) {
        vt_fault_read_text("../stdout", text, sizeof(text));
        if (command->same_output && strcmp(text, expected_output) != 0)
            return "status 0, but another output";
        if (command->proof[0] && !vt_fault_succeeds(bench, command->proof))
            return "status 0, but the result is wrong";
        return NULL;
    }
    if (!target_is_sound(bench, command))
        return "the target is not sound";
    /* Files that could not be removed are in the way of the next run, which may say so. */
    if (resumes && !vt_fault_succeeds(bench, command->argv))
        return "the same again fails";
    if (resumes && command->proof[0] && !vt_fault_succeeds(bench, command->proof))
        return "the same again gives a wrong result";
    return NULL;
}

static void one_case(struct bench *bench, const struct command *command, enum vt_fault_class fault,
                     uint64_t nth, const char *expected_output)
{
    prepare(bench, command);
    memset(bench->report, 0, sizeof(*bench->report));
    int status = run(bench, command->argv, fault, nth);
    char where[sizeof(bench->report->where)]; /* what follows runs the command again */
    memcpy(where, bench->report->where, sizeof(where));
    const char *wrong = judge(bench, command, status, where, expected_output);
    bench->injected++;
    bench->absorbed += WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (!wrong)
        return;
    bench->failures++;
    printf("# %s, %s number %" PRIu64 " (%s): %s\n", command->name, vt_fault_class_name(fault), nth,
           where, wrong);
}

static bool one_command(struct bench *bench, const struct command *command, uint64_t cases)
{
    static char expected[20000];
    uint64_t failures = bench->failures;
    uint64_t injected = bench->injected;
    uint64_t absorbed = bench->absorbed;
    for (enum vt_fault_class fault = 0; fault < VT_FAULT_CLASSES; fault++) {
        prepare(bench, command);
        int status = run(bench, command->argv, fault, 0);
        vt_fault_read_text("../stdout", expected, sizeof(expected));
        if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
            char text[500];
            vt_fault_read_text("../stderr", text, sizeof(text));
            printf("# %s fails without any fault: %s\n", command->name, text);
            bench->failures++;
            return false;
        }
        uint64_t total = bench->report->seen;
        uint64_t wanted = cases && cases < total ? cases : total;
        for (uint64_t i = 0; i < wanted; i++) /* the first and the last are among them */
            one_case(bench, command, fault, wanted < 2 ? 1 : 1 + i * (total - 1) / (wanted - 1),
                     expected);
    }
    restore(command);
    printf("# %s: %" PRIu64 " faults, %" PRIu64 " absorbed, %" PRIu64 " wrong\n", command->name,
           bench->injected - injected, bench->absorbed - absorbed, bench->failures - failures);
    return bench->failures == failures;
}

static void remove_folder(const struct bench *bench)
{
    static const char *const folders[] = {"work", "pristine", "."};
    for (size_t i = 0; i < 3; i++) {
        if (chdir(bench->folder) < 0 || chdir(folders[i]) < 0)
            vt_fault_die(bench->folder);
        DIR *folder = opendir(".");
        const struct dirent *entry;
        while (folder && (entry = readdir(folder)) != NULL)
            if (entry->d_name[0] != '.' && unlink(entry->d_name) < 0 && rmdir(entry->d_name) < 0)
                vt_fault_die(entry->d_name);
        if (folder)
            closedir(folder);
    }
    if (chdir("/") < 0 || rmdir(bench->folder) < 0)
        vt_fault_die(bench->folder);
}

/* Of both tables. */
static const struct command *command_at(size_t index)
{
    return index < vt_fault_command_entries
               ? &vt_fault_commands[index]
               : &vt_fault_qcow2_commands[index - vt_fault_command_entries];
}

static bool is_wanted(const struct command *command, int argc, char **argv)
{
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], command->name) == 0 ||
            (strcmp(argv[i], "qcow2") == 0 && command >= vt_fault_qcow2_commands &&
             command < vt_fault_qcow2_commands + vt_fault_qcow2_command_entries))
            return true;
    return argc < 2;
}

int main(int argc, char **argv)
{
    const size_t count = vt_fault_command_entries + vt_fault_qcow2_command_entries;
    const char *cases = getenv("VD_FAULT_CASES");
    uint64_t wanted = getenv("VD_FAULT_FULL") ? 0 : cases ? strtoull(cases, NULL, 0) : 6;
    struct bench bench = {.folder = ""};
    bench.report = mmap(NULL, sizeof(*bench.report), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (bench.report == MAP_FAILED)
        vt_fault_die("mmap");
    assert(vt_fault_fixture_entries <= FIXTURES_MAX);
    vt_fault_make_fixtures(&bench);
    printf("1..%zu\n", count);
    for (size_t i = 0; i < count; i++) {
        const struct command *command = command_at(i);
        if (!is_wanted(command, argc, argv)) {
            printf("ok %zu - %s # SKIP\n", i + 1, command->name);
            continue;
        }
        bool ok = one_command(&bench, command, wanted);
        printf("%s %zu - %s\n", ok ? "ok" : "not ok", i + 1, command->name);
    }
    printf("# faults injected: %" PRIu64 ", absorbed: %" PRIu64 ", wrong: %" PRIu64 "\n",
           bench.injected, bench.absorbed, bench.failures);
    remove_folder(&bench);
    munmap(bench.report, sizeof(*bench.report));
    return bench.failures ? 1 : 0;
}
