/* Preloaded into Firefox: waits on a condition variable look again each second, as POSIX allows them to at any time.
 *
 * glibc before 2.41 can lose a wake-up (https://sourceware.org/bugzilla/show_bug.cgi?id=25847). Where several of
 * Firefox's threads wait for its compilers on one condition variable, that is a worker that hangs, once in some hundred
 * loads. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <time.h>

int pthread_cond_wait(pthread_cond_t *condition, pthread_mutex_t *mutex) {
  struct timespec until;
  clock_gettime(CLOCK_MONOTONIC, &until);
  until.tv_sec += 1;
  int result = pthread_cond_clockwait(condition, mutex, CLOCK_MONOTONIC, &until);
  return result == ETIMEDOUT ? 0 : result;
}
