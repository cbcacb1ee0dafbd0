// One pool of threads for a process. A job is a number of tasks, which whoever is free takes: a thread
// that the system has put aside takes none, and holds up the others for one task at most.
//
// The threads sleep when there is nothing to do. They begin at the first job and anew after a fork.

#pragma once
#include <time.h>
#ifndef _WIN32  // which has neither forks nor signals to a thread
#include <pthread.h>
#include <signal.h>
#endif

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "threads.h"

#if defined(__x86_64__) || defined(__i386__)
#define RELAX() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define RELAX() __asm__ __volatile__("yield")
#else
#define RELAX()
#endif

namespace {

using Clock = std::chrono::steady_clock;
// Waking a thread that sleeps takes 5 microseconds, in a virtual machine 60: too long for the pauses
// between the products of a training step.
constexpr std::chrono::microseconds SPIN{1000};
// Shorter delays are common, on virtual machines above all, and no sign of a neighbour.
constexpr std::chrono::microseconds LATE{400};
constexpr std::chrono::milliseconds ALONE_AT_MOST{200};

// Until condition() or SPIN has passed. Meanwhile whoever wants the core has it.
template <class Condition>
void spin(Condition condition) {
    const auto end = Clock::now() + SPIN;
    do {
        for (int i = 0; i < 32 && !condition(); ++i) RELAX();
        if (!condition()) std::this_thread::yield();
    } while (!condition() && Clock::now() < end);
}

// What the calling thread has computed so far, without the time when others had its core.
std::chrono::nanoseconds computed() {
    timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return std::chrono::seconds(t.tv_sec) + std::chrono::nanoseconds(t.tv_nsec);
}

class Pool {
public:
    explicit Pool(int threads) : threads(threads) {}

    void run(int64_t tasks, TgTask task, void* context) {
        const bool mine = tasks > 1 && threads > 1 && !taken.exchange(true, std::memory_order_acquire);
        if (mine && Clock::now() >= alone_until)
            share(tasks, task, context);
        else
            for (int64_t i = 0; i < tasks; ++i) task(i, context);
        if (mine) taken.store(false, std::memory_order_release);
    }

    // End the workers; run() begins `threads` - 1 of them when it needs them.
    void resize(int threads) {
        while (taken.exchange(true, std::memory_order_acquire)) std::this_thread::yield();
        {
            std::lock_guard<std::mutex> lock(mutex);
            ended = true;
        }
        work.notify_all();
        for (std::thread& worker : workers) worker.join();
        workers.clear();
        ended = false;
        alone_until = {};
        this->threads = threads;
        taken.store(false, std::memory_order_release);
    }

private:
    void share(int64_t tasks, TgTask task, void* context) {
        if ((int)workers.size() < threads - 1) begin_workers();
        this->task = task, this->context = context;
        unfinished.store(tasks, std::memory_order_relaxed);
        int64_t to_wake;
        {
            std::lock_guard<std::mutex> lock(mutex);  // so that no worker falls asleep meanwhile
            const int64_t awake = (int64_t)workers.size() - asleep;
            to_wake = std::min<int64_t>(tasks - 1 - awake, asleep);
            unclaimed.store(tasks, std::memory_order_release);
        }
        for (int64_t i = 0; i < to_wake; ++i) work.notify_one();
        const auto start = Clock::now();
        const auto before = computed();
        const int64_t mine = take_tasks();
        const auto own = computed() - before;
        wait_for_others();
        if (mine) of_a_task = own / mine;
        beware(Clock::now() - start - own);
    }

    // Take tasks while there are any; how many.
    int64_t take_tasks() {
        int64_t taken_here = 0;
        int64_t n = unclaimed.load(std::memory_order_acquire);
        while (n > 0) {
            if (!unclaimed.compare_exchange_weak(n, n - 1, std::memory_order_acq_rel)) continue;
            task(n - 1, context);  // of the present job: it does not end before this task
            ++taken_here;
            if (unfinished.fetch_sub(1, std::memory_order_acq_rel) == 1) {
                std::lock_guard<std::mutex> lock(mutex);
                finished.notify_one();
            }
            n = unclaimed.load(std::memory_order_acquire);
        }
        return taken_here;
    }

    void wait_for_others() {
        const auto all_done = [this] { return unfinished.load(std::memory_order_acquire) == 0; };
        spin(all_done);
        if (all_done()) return;
        std::unique_lock<std::mutex> lock(mutex);
        finished.wait(lock, all_done);
    }

    // A thread that the system puts aside within a task, for another process, may come back after
    // milliseconds. When a job has lost time like this, the caller works alone for twice as long, on one
    // core; and when it happens again soon, twice as long as the last time. So one disturbance costs
    // little, and beside a neighbour who stays the caller is hardly slower than on one thread.
    void beware(std::chrono::nanoseconds lost) {
        if (lost <= 2 * of_a_task + LATE) return;
        const auto now = Clock::now();
        const bool again = now < alone_until + alone;
        alone = std::min<Clock::duration>(2 * (again ? alone : lost), ALONE_AT_MOST);
        alone_until = now + alone;
    }

    void begin_workers() {
#ifndef _WIN32
        sigset_t all, before;  // signals are for the threads of the program
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
#endif
        try {
            while ((int)workers.size() < threads - 1) workers.emplace_back([this] { serve(); });
        } catch (const std::system_error&) {  // a limit of the system: those that there are
            threads = (int)workers.size() + 1;
        }
#ifndef _WIN32
        pthread_sigmask(SIG_SETMASK, &before, nullptr);
#endif
    }

    void serve() {
        const auto called = [this] { return unclaimed.load(std::memory_order_acquire) > 0; };
        for (;;) {
            take_tasks();
            spin(called);
            std::unique_lock<std::mutex> lock(mutex);
            ++asleep;
            work.wait(lock, [&] { return ended || called(); });
            --asleep;
            if (ended) return;
        }
    }

    std::atomic<int> threads;
    std::vector<std::thread> workers;
    std::atomic<bool> taken{false};  // by the thread whose job it is; others work alone meanwhile
    TgTask task = nullptr;
    void* context = nullptr;
    std::atomic<int64_t> unclaimed{0}, unfinished{0};  // tasks of the job
    std::mutex mutex;
    std::condition_variable work, finished;
    int asleep = 0;
    bool ended = false;
    std::chrono::nanoseconds of_a_task{};  // in the caller's last job
    Clock::time_point alone_until{};
    Clock::duration alone{};  // how long, the last time
};

std::atomic<int> pool_size{1};  // threads of a pool that begins
std::atomic<Pool*> pool{nullptr};

#ifndef _WIN32
// After a fork the child has a copy of the pool and none of its threads: it begins a new one.
const int registered = pthread_atfork(nullptr, nullptr, [] { pool.store(nullptr); });
#endif

Pool& the_pool() {
    if (Pool* found = pool.load(std::memory_order_acquire)) return *found;
    Pool *made = new Pool(pool_size), *other = nullptr;
    if (pool.compare_exchange_strong(other, made)) return *made;
    delete made;
    return *other;
}

}  // namespace

extern "C" {
void tg_set_threads(int n) {
    pool_size = n;
    if (Pool* found = pool.load()) found->resize(n);
}

void tg_parallel(int64_t tasks, TgTask task, void* context) { the_pool().run(tasks, task, context); }
}
