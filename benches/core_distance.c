/*
 * How far apart two cores are: the time that a cache line takes from one to the other and back.
 *
 * Usage: core_distance CORE CORE
 *
 * Prints nanoseconds, the median of several rows of rounds.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "common.h"

#define ROWS 5
#define ROUNDS 20000

static _Alignas(128) atomic_int turn;
static int cores[2];

static void pin_to(int core) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)core, &set);
    if (sched_setaffinity(0, sizeof set, &set) < 0)
        fail("sched_setaffinity");
}

static void *answer(void *unused) {
    pin_to(cores[1]);
    for (int round = 0; round < ROWS * ROUNDS; round++) {
        while (atomic_load(&turn) != 2 * round + 1)
            ;
        atomic_store(&turn, 2 * round + 2);
    }
    return unused;
}

static int compare(const void *one, const void *other) {
    double difference = *(const double *)one - *(const double *)other;
    return (difference > 0) - (difference < 0);
}

int main(int count, char **arguments) {
    if (count != 3) {
        fprintf(stderr, "usage: core_distance CORE CORE\n");
        return 2;
    }
    cores[0] = atoi(arguments[1]);
    cores[1] = atoi(arguments[2]);
    pin_to(cores[0]);
    pthread_t other;
    if (pthread_create(&other, NULL, answer, NULL) != 0)
        fail("pthread_create");
    double rows[ROWS];
    for (int row = 0; row < ROWS; row++) {
        double start = now_seconds();
        for (int round = row * ROUNDS; round < (row + 1) * ROUNDS; round++) {
            atomic_store(&turn, 2 * round + 1);
            while (atomic_load(&turn) != 2 * round + 2)
                ;
        }
        rows[row] = (now_seconds() - start) / ROUNDS * 1e9;
    }
    pthread_join(other, NULL);
    qsort(rows, ROWS, sizeof *rows, compare);
    printf("%.0f\n", rows[ROWS / 2]);
}
