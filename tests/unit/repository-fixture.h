/* SPDX-License-Identifier: MIT */
/*
 * A directory of its own for each test, and in it "repo": a repository whose points are manifests
 * of small files.
 */
#ifndef REPOSITORY_FIXTURE_H
#define REPOSITORY_FIXTURE_H

#include "drivers/check.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backup/repository.h"

#define REPO "repo"

static char work_dir[256];

static int enter_work_dir(void **state)
{
    (void)state;
    const char *tmp = getenv("TMPDIR");
    snprintf(work_dir, sizeof(work_dir), "%s/test-repository-XXXXXX", tmp ? tmp : "/tmp");
    return mkdtemp(work_dir) && chdir(work_dir) == 0 ? 0 : -1;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
    (void)st;
    (void)kind;
    (void)ftw;
    return remove(path);
}

static int leave_work_dir(void **state)
{
    (void)state;
    return chdir("/") == 0 && nftw(work_dir, remove_one, 16, FTW_DEPTH | FTW_PHYS) == 0 ? 0 : -1;
}

__attribute__((unused)) static void put(const char *name, const char *text)
{
    FILE *file = fopen(name, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

__attribute__((unused)) static bool exists(const char *name)
{
    struct stat st;
    return lstat(name, &st) == 0;
}

__attribute__((unused)) static void assert_holds(const char *name, const char *text)
{
    char buf[64] = "";
    FILE *file = fopen(name, "r");
    if (!file)
        fail_msg("%s is not there", name);
    size_t got = fread(buf, 1, sizeof(buf) - 1, file);
    fclose(file);
    assert_int_equal(got, strlen(text));
    assert_string_equal(buf, text);
}

__attribute__((unused)) static struct vdisk_repository *open_repo(enum vd_repository_access access)
{
    struct vdisk_repository *repository = NULL;
    VT_OK(vd_repository_open(REPO, access, NULL, &repository, &vt_err));
    return repository;
}

/* A manifest of a point, made a number of hours after 1970; a full one without a @parent. */
__attribute__((unused)) static void add_point(struct vdisk_repository *repository, uint64_t number,
                                              uint64_t parent, int64_t hours)
{
    struct vd_manifest manifest = {
        .number = number,
        .kind = parent ? VDISK_POINT_INCREMENTAL : VDISK_POINT_FULL,
        .tracker = parent ? VDISK_TRACKER_BITMAP : VDISK_TRACKER_NONE,
        .parent = parent,
        .created = hours * 3600,
        .virtual_bytes = UINT64_C(1) << 20,
        .image_format = (char[]){"qcow2"},
        .source = (char[]){"/disks/a.qcow2"},
        .source_format = (char[]){"qcow2"},
        .bitmap = (char[]){"vdisk-0-0"},
    };
    uint8_t uuid[VD_UUID_BYTES] = {0};
    for (int i = 0; i < 8; i++)
        uuid[i] = (uint8_t)(number >> (8 * i));
    vd_uuid_text(uuid, manifest.uuid);
    if (parent) {
        for (int i = 0; i < 8; i++)
            uuid[i] = (uint8_t)(parent >> (8 * i));
        vd_uuid_text(uuid, manifest.parent_uuid);
    }
    manifest.image.name = vd_point_file_name(number, ".qcow2", NULL);
    assert_non_null(manifest.image.name);
    VT_OK(vd_digest_table_init(&manifest.image.table, vd_repository_digest_kind(repository), 65536,
                               1000 + number % 1000, &vt_err));
    char *name = vd_point_file_name(number, ".json", NULL);
    assert_non_null(name);
    char *path = vd_repository_path(repository, name, NULL);
    assert_non_null(path);
    VT_OK(vd_manifest_write(&manifest, repository->uuid, path, &repository->key, &vt_err));
    free(path);
    free(name);
    free(manifest.image.name);
    vd_digest_table_free(&manifest.image.table);
}

#endif
